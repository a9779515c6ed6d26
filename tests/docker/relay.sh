# The containers of docker/compose.yaml: rows that go in, messages that come out. For test.sh.

relay() { docker compose -f docker/compose.yaml "$@"; }
container() { docker compose -f docker/compose.yaml ps --all --quiet "$1"; }
sql() { docker compose -f docker/compose.yaml exec -T postgres psql -X -q -A -t -v ON_ERROR_STOP=1 -U postgres -d orders -c "$1"; }

insert() { # AGGREGATE-ID ROWS: one transaction; prints the ids
    sql "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
        SELECT 'Order', '$1', 'OrderPlaced', jsonb_build_object('orderId', $1, 'n', n) FROM generate_series(1, $2) AS n RETURNING id"
}

# Inserts rows of one aggregate until the file /tmp/writing is gone. A transaction may fail: the table says what is committed.
keep_writing() {
    touch /tmp/writing
    while [ -e /tmp/writing ]; do
        insert 7 20 >/dev/null 2>&1 || true
        sleep 0.2
    done &
    writer=$!
}
stop_writing() {
    rm -f /tmp/writing
    wait "$writer"
}

# Begins to count messages, with an empty queue and an empty table.
begin() {
    relay down --volumes 2>/dev/null
    rm -f /tmp/received /tmp/writing
    touch /tmp/received
}
# Takes every message out of the queue: a line with aggregate and message id each, added to /tmp/received.
receive() {
    while curl -s -u guest:guest -H 'content-type: application/json' -d '{"count": 1000, "ackmode": "ack_requeue_false", "encoding": "auto"}' \
        http://127.0.0.1:15672/api/queues/%2f/example.orders/get >/tmp/got.json; do
        jq -r '.[].properties | "\(.headers["aggregate-id"]) \(.message_id)"' /tmp/got.json >/tmp/got 2>/dev/null || return 1
        cat /tmp/got >>/tmp/received
        # Not until the queue is empty: somebody may be writing.
        [ "$(wc -l </tmp/got)" -ge 1000 ] || return 0
    done
}
# By aggregate, in commit order: one writer has each aggregate.
committed() { sql "SELECT aggregateid || ' ' || id FROM outbox ORDER BY seq" | sort -s -k 1,1; }
has_received_all() {
    receive
    committed | sort >/tmp/committed
    sort -u /tmp/received | comm -23 /tmp/committed - >/tmp/missing
    [ -s /tmp/committed ] && [ ! -s /tmp/missing ]
}
# Every committed row is a message, nothing else is, and the first deliveries of each aggregate are in commit order.
judge() { # SECONDS: prints what was repeated
    eventually "$1" "every committed row is in the queue" has_received_all
    sort -u /tmp/received | comm -13 /tmp/committed - >/tmp/strange
    [ ! -s /tmp/strange ] || fail "messages without a row: $(head -n 3 /tmp/strange)"
    committed >/tmp/in-order
    awk '!seen[$0]++' /tmp/received | sort -s -k 1,1 | cmp -s - /tmp/in-order || fail "the first deliveries are not in commit order"
    say "$(wc -l </tmp/committed) rows arrived in order; $(($(wc -l </tmp/received) - $(wc -l </tmp/committed))) messages were repeated"
}
# A new row arrives.
flows() {
    flows_id=$(insert 8 1) || fail "no row can be inserted"
    eventually 60 "row $flows_id arrives" arrived "$flows_id"
}
arrived() {
    receive
    grep -qF "$1" /tmp/received
}
