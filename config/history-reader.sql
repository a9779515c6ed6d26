-- A role that reads the order history's view with SQL, for business intelligence. A superuser runs this once in the
-- service's database, before the service's first start or at any later time. Choose another password:
--   psql --set ON_ERROR_STOP=1 --file config/history-reader.sql postgresql://postgres@127.0.0.1:5432/history
--
-- The role's name is that of the service's role with _reader behind it. By that name the service finds the role, and
-- grants the same when it creates the view's tables again, as after a rebuild of dropped ones. Default privileges would
-- not do: every table of the service would be readable, such as its inbox.

BEGIN;
CREATE ROLE history_reader LOGIN PASSWORD 'secret';
-- A session of this role neither writes nor asks for more than a minute. The session itself can lift both limits; the
-- rights below hold whatever it sets.
ALTER ROLE history_reader SET default_transaction_read_only = on;
ALTER ROLE history_reader SET statement_timeout = '60s';

DO $$
BEGIN
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO history_reader', current_database());
  -- What every role may do unless somebody revokes it: make temporary tables, and before PostgreSQL 15 tables in public.
  EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
  GRANT USAGE, CREATE ON SCHEMA public TO history;
  REVOKE CREATE ON SCHEMA public FROM PUBLIC;
  GRANT USAGE ON SCHEMA public TO history_reader;
  -- Before the service's first start there are no tables yet. The service grants this when it creates them.
  IF to_regclass('public.customers') IS NOT NULL THEN
    GRANT SELECT ON public.customers, public.orders TO history_reader;
  END IF;
END $$;
COMMIT;
