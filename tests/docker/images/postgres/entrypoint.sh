#!/bin/sh
# The part of the official image's entry point that the compose files use: POSTGRES_DB, POSTGRES_PASSWORD, the scripts in
# /docker-entrypoint-initdb.d, and arguments of the server. Not imitated: POSTGRES_USER, POSTGRES_INITDB_ARGS, the _FILE variables.
set -eu
as_postgres() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }

mkdir -p "$PGDATA" /run/postgresql
chown postgres:postgres "$PGDATA" /run/postgresql
chmod 700 "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    echo "${POSTGRES_PASSWORD:?}" >/run/password
    chown postgres /run/password
    as_postgres initdb --username postgres --pwfile /run/password --auth-local trust --auth-host scram-sha-256
    rm /run/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    # No address while the scripts run: the server is not ready yet.
    as_postgres pg_ctl start --wait --options "-c listen_addresses=''"
    as_postgres psql -q -v ON_ERROR_STOP=1 -d postgres -c "CREATE DATABASE \"${POSTGRES_DB:?}\""
    for script in /docker-entrypoint-initdb.d/*.sql; do
        [ -e "$script" ] || continue
        echo "running $script"
        as_postgres psql -q --no-psqlrc -v ON_ERROR_STOP=1 -d "$POSTGRES_DB" -f "$script"
    done
    as_postgres pg_ctl stop --wait --mode fast
fi
[ "$1" = postgres ] || exec "$@"
exec setpriv --reuid postgres --regid postgres --init-groups "$@"
