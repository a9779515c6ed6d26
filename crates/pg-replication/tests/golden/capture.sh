#!/bin/sh
# Captures pgoutput's messages for a number of situations from a real server, into the *.hex files beside this script.
#
# The PG* environment variables name a server (PostgreSQL 14 or later, wal_level = logical) and a superuser on it. The
# script creates a database and drops it at the end. Then let the tests write the renderings, and review them:
#
#     PGHOST=... PGPORT=... crates/pg-replication/tests/golden/capture.sh
#     PGOUTPUT_GOLDEN=write cargo test -p pg-replication --test pgoutput
#     git diff crates/pg-replication/tests/golden
set -eu
here=$(cd "$(dirname "$0")" && pwd)
database=pgoutput_golden_$$

psql -Xqd "${PGDATABASE:-postgres}" -c "CREATE DATABASE $database ENCODING 'UTF8' TEMPLATE template0"
trap 'psql -Xqd "${PGDATABASE:-postgres}" -c "DROP DATABASE $database"' EXIT
sql() { psql -Xqd "$database" -v ON_ERROR_STOP=1 "$@"; }

# capture NAME PUBLICATION COMMENT: runs standard input after creating a slot, and captures what the slot then holds.
capture() {
    slot=pgoutput_golden_$$
    sql -c "SELECT FROM pg_create_logical_replication_slot('$slot', 'pgoutput')" >/dev/null
    sql >/dev/null
    {
        echo "# $3"
        echo "# $(sql -Atc "SELECT 'PostgreSQL ' || current_setting('server_version_num')"), one message a line"
        sql -Atc "SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('$slot', NULL, NULL,
                  'proto_version', '1', 'publication_names', '$2', 'messages', 'true')"
    } >"$here/$1.hex"
    sql -c "SELECT FROM pg_drop_replication_slot('$slot')" >/dev/null
}

sql <<'SQL'
CREATE TABLE outbox (
    id uuid PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb,
    seq bigint GENERATED ALWAYS AS IDENTITY, created_at timestamptz NOT NULL DEFAULT '2024-02-29 12:00:00.25+00',
    shout text GENERATED ALWAYS AS (upper(type)) STORED, gone int);
ALTER TABLE outbox DROP COLUMN gone;
CREATE TABLE texts (id int PRIMARY KEY, body text, note text);
ALTER TABLE texts ALTER body SET STORAGE EXTERNAL;
CREATE TABLE full_identity (id int, body text);
ALTER TABLE full_identity REPLICA IDENTITY FULL;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent);
CREATE TYPE mood AS ENUM ('calm', 'cross');
CREATE TABLE moods (id int PRIMARY KEY, mood mood, codes varchar(8)[]);
CREATE TABLE partitioned (id int, created_at date) PARTITION BY RANGE (created_at);
CREATE TABLE partitioned_2024 PARTITION OF partitioned FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE partitioned_2025 (extra int, created_at date, id int);
ALTER TABLE partitioned_2025 DROP COLUMN extra;
ALTER TABLE partitioned ATTACH PARTITION partitioned_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE SCHEMA "Bestell-Dienst";
CREATE TABLE "Bestell-Dienst"."Aus""gang" ("Schlüssel" int PRIMARY KEY, "the ""type""" text);
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE PUBLICATION root FOR TABLE partitioned WITH (publish = 'insert', publish_via_partition_root = true);
CREATE PUBLICATION leaves FOR TABLE partitioned WITH (publish = 'insert');
SELECT FROM pg_replication_origin_create('elsewhere');
SQL
trap 'sql -c "SELECT pg_replication_origin_drop('"'elsewhere'"')" >/dev/null
      psql -Xqd "${PGDATABASE:-postgres}" -c "DROP DATABASE $database"' EXIT

capture insert everything 'One row. The generated column and the dropped one are not sent.' <<'SQL'
INSERT INTO outbox VALUES ('018f0000-0000-7000-8000-000000000001', 'Order', '42', 'OrderCreated', '{"total": 9.50}');
SQL
capture transaction everything 'Three rows in one transaction, one of them in a subtransaction; what is rolled back is not sent.' <<'SQL'
BEGIN;
INSERT INTO texts VALUES (1, 'first', NULL);
SAVEPOINT kept; INSERT INTO texts VALUES (2, 'second', NULL); RELEASE kept;
SAVEPOINT undone; INSERT INTO texts VALUES (3, 'never', NULL); ROLLBACK TO undone;
INSERT INTO texts VALUES (4, 'third', NULL);
COMMIT;
DELETE FROM texts;
SQL
capture empty_and_null everything 'Empty string, NULL and blank are three different values.' <<'SQL'
INSERT INTO texts VALUES (10, '', NULL), (11, NULL, ' ');
SQL
capture text_of_all_sorts everything 'Characters of one to four bytes, control characters, backslashes.' <<'SQL'
INSERT INTO texts VALUES (12, E'a\u00e9\u20ac\U0001F600', E'tab\tline\nback\\slash\x01');
SQL
sql -c "INSERT INTO texts VALUES (20, repeat('x', 5000), 'before')"
capture update_unchanged_toast everything 'UPDATE that leaves a large value alone: it is marked as unchanged.' <<'SQL'
UPDATE texts SET note = 'after' WHERE id = 20;
SQL
capture update_key everything 'UPDATE of the primary key: the old key is sent.' <<'SQL'
UPDATE texts SET id = 21, body = 'small' WHERE id = 20;
SQL
sql -c "INSERT INTO full_identity VALUES (1, 'one'), (2, NULL)"
capture update_full everything 'UPDATE under REPLICA IDENTITY FULL: the whole old row is sent.' <<'SQL'
UPDATE full_identity SET body = 'uno' WHERE id = 1;
SQL
capture delete_full everything 'DELETE under REPLICA IDENTITY FULL.' <<'SQL'
DELETE FROM full_identity;
SQL
capture delete_default everything 'DELETE under the default replica identity: the key, all else NULL.' <<'SQL'
DELETE FROM texts WHERE id = 21;
SQL
capture truncate everything 'TRUNCATE of one table.' <<'SQL'
TRUNCATE texts;
SQL
capture truncate_cascade everything 'TRUNCATE of two tables with CASCADE and RESTART IDENTITY.' <<'SQL'
TRUNCATE parent RESTART IDENTITY CASCADE;
SQL
capture origin everything 'A transaction that was replicated from elsewhere.' <<'SQL'
SELECT pg_replication_origin_session_setup('elsewhere');
BEGIN;
SELECT pg_replication_origin_xact_setup('1F/ABCDEF00', '2024-01-02 03:04:05+00');
INSERT INTO texts VALUES (30, 'from elsewhere', NULL);
COMMIT;
SQL
capture type everything 'An enum column and an array with a modifier: a Type message comes before the Relation.' <<'SQL'
INSERT INTO moods VALUES (1, 'calm', '{a,"b c",NULL}');
SQL
capture message everything 'Logical messages: transactional, then not, then one that is empty.' <<'SQL'
BEGIN; SELECT pg_logical_emit_message(true, 'outbox', '{"id": 1}'); COMMIT;
SELECT pg_logical_emit_message(false, 'beat', E'\\x00ff7f'::bytea);
SELECT pg_logical_emit_message(false, '', '');
SQL
capture partitioned_root root 'Rows of two partitions, published as the root.' <<'SQL'
INSERT INTO partitioned VALUES (1, '2024-06-01'), (2, '2025-06-01');
SQL
capture partitioned_leaves leaves 'The same without publish_via_partition_root: each partition for itself, in its own column order.' <<'SQL'
INSERT INTO partitioned VALUES (1, '2024-06-01'), (2, '2025-06-01');
SQL
capture quoted_names everything 'Names with capitals, blanks, quotes and umlauts come unquoted.' <<'SQL'
INSERT INTO "Bestell-Dienst"."Aus""gang" VALUES (1, 'x');
SQL
capture altered everything 'A column is added under way: the table is described again.' <<'SQL'
INSERT INTO full_identity VALUES (5, 'before');
ALTER TABLE full_identity ADD COLUMN tenant text DEFAULT 'none';
INSERT INTO full_identity VALUES (6, 'after');
SQL
capture big_value everything 'A value kept out of line arrives whole.' <<'SQL'
INSERT INTO texts VALUES (40, repeat('0123456789abcdef', 512), NULL);
SQL
