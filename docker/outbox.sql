-- For docker/compose.yaml: the outbox table as `outboxd schema` prints it, without comments.
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

-- outboxd's role, with the least privileges. `outboxd setup --print-sql` prints these statements for your own database.
CREATE ROLE outboxd LOGIN REPLICATION PASSWORD 'secret';
GRANT USAGE ON SCHEMA public TO outboxd;
GRANT SELECT ON outbox TO outboxd;
CREATE PUBLICATION outboxd_orders FOR TABLE ONLY outbox WITH (publish = 'insert');
-- Schema of outboxd's own tables. Nobody else can create triggers there, which would run with the role's privileges.
CREATE SCHEMA outboxd AUTHORIZATION outboxd;
