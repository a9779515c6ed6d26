#!/bin/sh
# pg-transactional-outbox, its listener on logical replication. ../README.md says what the words mean.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
own=${PEER_NAME}_rows # the table in the columns that the library wants

case $1 in
fetch)
    command -v node >/dev/null || { echo "no Node.js here: apt-get install nodejs npm" >&2; exit 1; }
    [ -d "$PEER_HOME/node_modules/amqplib" ] && exit 0
    mkdir -p "$PEER_HOME"
    cp "$here/package.json" "$PEER_HOME/"
    cd "$PEER_HOME" && npm install --silent --no-audit --no-fund >&2
    ;;
prepare)
    # What is written to $OUTBOX goes on to the library's table, in the same transaction.
    psql -q -v ON_ERROR_STOP=1 <<SQL
CREATE TABLE $own (
    id uuid PRIMARY KEY,
    aggregate_type text NOT NULL,
    aggregate_id text NOT NULL,
    message_type text NOT NULL,
    segment text,
    concurrency text NOT NULL DEFAULT 'sequential',
    payload jsonb NOT NULL,
    metadata jsonb,
    locked_until timestamptz NOT NULL DEFAULT to_timestamp(0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    processed_at timestamptz,
    abandoned_at timestamptz,
    started_attempts smallint NOT NULL DEFAULT 0,
    finished_attempts smallint NOT NULL DEFAULT 0);
CREATE TABLE $OUTBOX (LIKE outbox INCLUDING ALL);
CREATE FUNCTION ${own}_insert() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
    INSERT INTO $own (id, aggregate_type, aggregate_id, message_type, segment, payload)
    VALUES (NEW.id, NEW.aggregatetype, NEW.aggregateid, NEW.type, NEW.aggregateid, NEW.payload);
    RETURN NULL;
END \$\$;
CREATE TRIGGER pass_on BEFORE INSERT ON $OUTBOX FOR EACH ROW EXECUTE FUNCTION ${own}_insert();
CREATE PUBLICATION $PEER_NAME FOR TABLE $own WITH (publish = 'insert');
SQL
    psql -q -c "SELECT pg_create_logical_replication_slot('$PEER_NAME', 'pgoutput')" >/dev/null
    ;;
run)
    NODE_PATH="$PEER_HOME/node_modules" PEER_TABLE=$own exec node "$here/relay.js"
    ;;
esac
