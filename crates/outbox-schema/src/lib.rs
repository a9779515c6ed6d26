//! Tables of the outbox pattern as SQL: the outbox, and the inbox that goes with it on the other side. The daemon prints them, the
//! services create them.

/// The table that Debezium made the standard, with three optional columns.
pub const OUTBOX_STANDARD: &str = "\
-- Outbox: insert a row in the transaction that changes the business tables, and one message is published for it.
-- The names are defaults: another table or other columns are configured as outbox.table and outbox.columns.
CREATE TABLE outbox (
  id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),        -- message_id
  aggregatetype text NOT NULL,                                     -- names the exchange: {aggregate_type}.events
  aggregateid   text NOT NULL,                                     -- messages of one aggregate are delivered in commit order
  type          text NOT NULL,                                     -- event type: the routing key
  payload       jsonb,                                             -- message body; text and bytea do as well; NULL is an empty body
  headers       jsonb,                                             -- optional: message headers, as one JSON object
  seq           bigint GENERATED ALWAYS AS IDENTITY,               -- optional: order of backlog, recovery and replay
  created_at    timestamptz NOT NULL DEFAULT clock_timestamp()     -- optional: retention, replay since a time
);

-- Streaming reads the write-ahead log, never the table: it needs no index, and rows may be deleted at any time after
-- their transaction has committed. What reads the table itself (backlog, recovery, replay) goes by seq, so create this
-- index if rows are kept:
-- CREATE UNIQUE INDEX outbox_seq ON outbox (seq);
-- Clean-up needs no index. With cleanup.retention_s, this one leads to the old rows of a large table at once:
-- CREATE INDEX outbox_created_at ON outbox (created_at);

-- seq follows commit order within an aggregate only if writers lock the aggregate (SELECT ... FOR UPDATE, or the UPDATE
-- of its row) before they insert here.

-- No REPLICA IDENTITY is needed: only inserts are relayed. gen_random_uuid() is built in since PostgreSQL 13.
";

/// Where a consumer notes the messages that it has handled.
pub const INBOX: &str = "\
-- Inbox: makes a consumer idempotent. In the transaction that handles a message, first
--   INSERT INTO inbox (consumer, source, message_id, replay) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
-- No row inserted means that the message was handled before: acknowledge it and do nothing else.
--
-- A replay repeats message_id. A consumer whose effects do not add up takes it in: for a message whose header outbox-replayed
-- is true, replay is its header outbox-position, which differs from one replay to the next. Any other consumer leaves replay
-- empty, and a replay is a duplicate; only messages that have no row are then handled. To have some handled again, delete
-- their rows before the replay.
CREATE TABLE inbox (
  consumer    text NOT NULL,                                       -- who handled it, e.g. the queue's name
  source      text NOT NULL DEFAULT '',                            -- header outbox-source: ids of two sources may be equal
  message_id  text NOT NULL,                                       -- the message's message_id property
  replay      text NOT NULL DEFAULT '',                            -- empty, or the replay that brought it
  received_at timestamptz NOT NULL DEFAULT clock_timestamp(),      -- to delete old rows by
  PRIMARY KEY (consumer, source, message_id, replay)
);

-- An inbox of outboxd 0.1.0 has neither source nor replay. Stop its consumers, name the source that its rows came from, and run:
-- ALTER TABLE inbox ADD COLUMN source text NOT NULL DEFAULT 'orders', ADD COLUMN replay text NOT NULL DEFAULT '',
--   DROP CONSTRAINT inbox_pkey, ADD PRIMARY KEY (consumer, source, message_id, replay);
-- ALTER TABLE inbox ALTER COLUMN source SET DEFAULT '';

-- Delete rows that are older than any copy can be (docs/consumers.md), a batch at a time:
--   DELETE FROM inbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM inbox WHERE consumer = $1
--     AND received_at < clock_timestamp() - interval '7 days' ORDER BY received_at LIMIT 1000 FOR UPDATE SKIP LOCKED))
CREATE INDEX inbox_age ON inbox (consumer, received_at);
";
