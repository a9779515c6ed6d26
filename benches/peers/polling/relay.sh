#!/bin/sh
# The loop that teams write themselves, on Node.js with pg and amqplib. ../README.md says what the words mean.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

case $1 in
fetch)
    command -v node >/dev/null || { echo "no Node.js here: apt-get install nodejs npm" >&2; exit 1; }
    [ -d "$PEER_HOME/node_modules/amqplib" ] && exit 0
    mkdir -p "$PEER_HOME"
    cp "$here/package.json" "$PEER_HOME/"
    cd "$PEER_HOME" && npm install --silent --no-audit --no-fund >&2
    ;;
prepare)
    psql -qc "CREATE TABLE IF NOT EXISTS $OUTBOX (LIKE outbox INCLUDING ALL);
              CREATE INDEX IF NOT EXISTS ${OUTBOX}_seq ON $OUTBOX (seq)"
    ;;
run)
    if [ "$PEER_SETTINGS" = best ]; then export BATCH=4000 IDLE_MS=10; fi
    NODE_PATH="$PEER_HOME/node_modules" exec node "$here/relay.js"
    ;;
esac
