-- For docker/compose.yaml: what `outboxd schema` prints, without its comments.
CREATE TABLE outbox (
  id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  aggregatetype text NOT NULL,
  aggregateid   text NOT NULL,
  type          text NOT NULL,
  payload       jsonb,
  headers       jsonb,
  seq           bigint GENERATED ALWAYS AS IDENTITY,
  created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The role that relays, with no more rights than that takes. `outboxd setup --print-sql` prints the same for a database of yours.
CREATE ROLE outboxd LOGIN REPLICATION PASSWORD 'secret';
GRANT USAGE ON SCHEMA public TO outboxd;
GRANT SELECT ON outbox TO outboxd;
CREATE PUBLICATION outboxd_orders FOR TABLE ONLY outbox WITH (publish = 'insert');
-- For outboxd's own tables, so that nobody else's triggers run with its rights.
CREATE SCHEMA outboxd AUTHORIZATION outboxd;
