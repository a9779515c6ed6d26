//! Tables of the outbox pattern as SQL: the producer's outbox and the consumer's inbox. The daemon prints them, the services create
//! them.

/// The outbox table that Debezium made the standard, with three optional columns.
pub const OUTBOX_STANDARD: &str = "\
-- Outbox: insert a row in the transaction that changes the business tables. outboxd publishes one message for it.
-- The names are defaults: outbox.table and outbox.columns configure others.
CREATE TABLE outbox (
  id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),        -- message_id
  aggregatetype text NOT NULL,                                     -- names the exchange: {aggregate_type}.events
  aggregateid   text NOT NULL,                                     -- messages of one aggregate are delivered in commit order
  type          text NOT NULL,                                     -- event type: the routing key
  payload       jsonb,                                             -- message body; text or bytea work, too; NULL is an empty body
  headers       jsonb,                                             -- optional: message headers, as one JSON object
  seq           bigint GENERATED ALWAYS AS IDENTITY,               -- optional: order of backlog, recovery and replay
  created_at    timestamptz NOT NULL DEFAULT clock_timestamp()     -- optional: retention, replay since a time
);

-- Streaming reads the write-ahead log and never the table. It needs no index, and rows may be deleted at any time after
-- their transaction has committed. Backlog, recovery and replay read the table in the order of seq. If rows are kept,
-- create this index for them:
-- CREATE UNIQUE INDEX outbox_seq ON outbox (seq);
-- Clean-up needs no index. With cleanup.retention_s, this index makes the search short in a large table:
-- CREATE INDEX outbox_created_at ON outbox (created_at);

-- seq follows commit order within an aggregate only if writers lock the aggregate (SELECT ... FOR UPDATE, or the UPDATE
-- of its row) before they insert here.

-- No REPLICA IDENTITY is needed, because only inserts are relayed. gen_random_uuid() is built in since PostgreSQL 13.
";

/// The inbox table, in which a consumer records the messages that it has handled.
pub const INBOX: &str = "\
-- Inbox: makes a consumer idempotent. In the transaction that handles a message, first
--   INSERT INTO inbox (consumer, source, message_id, replay) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
-- If no row is inserted, the message was handled before: acknowledge it and do nothing else.
--
-- A replay repeats message_id. A consumer that may handle a message twice without harm handles replays, too: for a message
-- whose header outbox-replayed is true, it sets replay to the header outbox-position, which differs from one replay to the
-- next. Any other consumer leaves replay empty and treats a replay as a duplicate: it handles only messages without a row.
-- To have messages handled again, delete their rows before the replay.
CREATE TABLE inbox (
  consumer    text NOT NULL,                                       -- name of the consumer, such as its queue
  source      text NOT NULL DEFAULT '',                            -- header outbox-source: ids of two sources may be equal
  message_id  text NOT NULL,                                       -- property message_id
  replay      text NOT NULL DEFAULT '',                            -- empty, or outbox-position of a replayed message
  received_at timestamptz NOT NULL DEFAULT clock_timestamp(),      -- for the deletion of old rows
  PRIMARY KEY (consumer, source, message_id, replay)
);

-- An inbox of outboxd 0.1.0 has neither source nor replay. Stop its consumers, put the source of its rows in the place of
-- 'orders', and run:
-- ALTER TABLE inbox ADD COLUMN source text NOT NULL DEFAULT 'orders', ADD COLUMN replay text NOT NULL DEFAULT '',
--   DROP CONSTRAINT inbox_pkey, ADD PRIMARY KEY (consumer, source, message_id, replay);
-- ALTER TABLE inbox ALTER COLUMN source SET DEFAULT '';

-- Delete rows that are older than any duplicate can be (docs/services/consumers.md), a batch at a time:
--   DELETE FROM inbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM inbox WHERE consumer = $1
--     AND received_at < clock_timestamp() - interval '7 days' ORDER BY received_at LIMIT 1000 FOR UPDATE SKIP LOCKED))
CREATE INDEX inbox_age ON inbox (consumer, received_at);
";
