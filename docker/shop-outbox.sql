-- For docker/compose.shop.yaml: the outbox of a service, and outboxd's role with the least privileges. The service
-- would create the table at its first start. It is made here so that outboxd may read it from the beginning.
SET ROLE :"DBNAME";
CREATE TABLE outbox (
  id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  channel       text NOT NULL,
  aggregatetype text NOT NULL,
  aggregateid   text NOT NULL,
  type          text NOT NULL,
  payload       jsonb,
  headers       jsonb,
  seq           bigint GENERATED ALWAYS AS IDENTITY,
  created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
RESET ROLE;

CREATE ROLE outboxd LOGIN REPLICATION PASSWORD 'secret';
GRANT CONNECT ON DATABASE :"DBNAME" TO outboxd;
GRANT USAGE ON SCHEMA public TO outboxd;
GRANT SELECT ON outbox TO outboxd;
\set publication outboxd_ :DBNAME
CREATE PUBLICATION :"publication" FOR TABLE ONLY outbox WITH (publish = 'insert');
-- Schema of outboxd's own tables. Nobody else can create triggers there, which would run with the role's privileges.
CREATE SCHEMA outboxd AUTHORIZATION outboxd;
