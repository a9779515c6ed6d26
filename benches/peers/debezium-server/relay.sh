#!/bin/bash
# Debezium Server with its RabbitMQ sink and the outbox event router. ../README.md says what the words mean.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
version=3.6.3.Final
home=$PEER_HOME/$version/debezium-server

java_home() { # Debezium 3.6 needs Java 21; the newest there is
    if [ -n "${JAVA_HOME:-}" ]; then echo "$JAVA_HOME"; return; fi
    for candidate in /usr/lib/jvm/*/; do
        [ -x "$candidate/bin/java" ] || continue
        major=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$candidate/release" 2>/dev/null || true)
        echo "${major:-0} ${candidate%/}"
    done | sort -n | tail -1 | cut -d' ' -f2
}

# The server looks for everything in its working directory, which has to be this run's.
arrange() {
    for entry in "$home"/*; do
        name=${entry##*/}
        [ "$name" = config ] || ln -sfn "$entry" "$name"
    done
    mkdir -p config data
    ln -sfn "$home/config/lib" config/lib
    cat "$here/$PEER_SETTINGS.properties" - >config/application.properties <<PROPERTIES
debezium.source.database.hostname=$PGHOST
debezium.source.database.port=$PGPORT
debezium.source.database.user=$PGUSER
debezium.source.database.password=none
debezium.source.database.dbname=$PGDATABASE
debezium.source.table.include.list=public.$OUTBOX
debezium.source.slot.name=$PEER_NAME
debezium.source.publication.name=$PEER_NAME
debezium.sink.rabbitmq.connection.host=$AMQP_HOST
debezium.sink.rabbitmq.connection.port=$AMQP_PORT
debezium.sink.rabbitmq.connection.virtual.host=$AMQP_VHOST
debezium.sink.rabbitmq.exchange=$EXCHANGE
PROPERTIES
}

start() {
    JAVA_HOME=$(java_home)
    export JAVA_HOME
    # What its runtime asks for on Java 24 and later.
    export JAVA_OPTS="--add-opens=java.base/java.lang=ALL-UNNAMED"
    if [ "$PEER_SETTINGS" = best ]; then JAVA_OPTS="$JAVA_OPTS -Xmx256m -XX:+UseSerialGC"; fi
    exec ./run.sh
}

case $1 in
fetch)
    command -v mvn >/dev/null || { echo "no Maven here: apt-get install maven default-jre-headless" >&2; exit 1; }
    [ -e "$home/run.sh" ] && exit 0
    artifact=io.debezium:debezium-server-dist:$version:tar.gz
    mkdir -p "$PEER_HOME/$version"
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:2.8:get -Dartifact=$artifact -Dtransitive=false >&2
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:2.8:copy -Dartifact=$artifact \
        -DoutputDirectory="$PEER_HOME/$version" >&2
    tar -xzf "$PEER_HOME/$version/debezium-server-dist-$version.tar.gz" -C "$PEER_HOME/$version"
    rm "$PEER_HOME/$version/debezium-server-dist-$version.tar.gz"
    ;;
prepare)
    # Without a stored offset it would begin at the end of WAL, so it runs until it has seen one row.
    psql -qc "CREATE PUBLICATION $PEER_NAME FOR TABLE $OUTBOX WITH (publish = 'insert')"
    arrange
    start >>log 2>&1 &
    server=$!
    active="SELECT count(*) FROM pg_replication_slots WHERE slot_name = '$PEER_NAME' AND active"
    for _ in $(seq 1 120); do
        if [ "$(psql -qAtc "$active")" = 1 ]; then break; fi
        sleep 0.5
    done
    sleep 2
    psql -qc "INSERT INTO $OUTBOX (aggregatetype, aggregateid, type, payload)
              VALUES ('Order', '1', 'OrderCreated', '{\"n\": 0, \"a\": \"1\"}')"
    sleep 3
    kill -TERM $server && wait $server || true
    [ -s data/offsets.dat ] || { tail -n 25 log >&2; exit 1; }
    ;;
run)
    arrange
    start
    ;;
esac
