# docker/compose.yaml, as the page starts it: a row becomes a message, Prometheus scrapes, and each container may restart.

begin
run_step "Try it" 1
for service in postgres rabbitmq outboxd prometheus; do
    equal "state of $service" "$(docker inspect --format '{{.State.Status}}' "$(container $service)")" running
done
outboxd=$(container outboxd)
is_healthy "$outboxd" || fail "outboxd is $(health "$outboxd")"
eventually 60 "outboxd is ready" ready

run_step "Try it" 2
eventually 30 "the message is in the queue" sh -c '[ "$(curl -s -u guest:guest http://127.0.0.1:15672/api/queues/%2f/example.orders | jq .messages)" = 1 ]'
message=$(run_step "Try it" 3)
equal "payload" "$(echo "$message" | jq -r '.[0].payload')" '{"orderId": 42}'
equal "routing key" "$(echo "$message" | jq -r '.[0].routing_key')" OrderPlaced
eventually 60 "Prometheus has scraped outboxd" sh -c '[ "$(curl -s "http://127.0.0.1:9090/api/v1/query?query=outboxd_messages_confirmed_total" | jq -r ".data.result[0].value[1]")" = 1 ]'
equal "up" "$(prometheus 'up{job="outboxd"}')" 1
known=$(run_step "Try it" 4)
contains "what outboxd knows" "$known" streaming
contains "what Prometheus knows" "$known" outboxd_messages_confirmed_total

# Not a superuser: neither the process nor its role.
equal "superuser" "$(sql "SELECT rolsuper FROM pg_roles WHERE rolname = 'outboxd'")" f
equal "role that streams" "$(sql "SELECT usename FROM pg_stat_replication")" outboxd
pid=$(docker inspect --format '{{.State.Pid}}' "$outboxd")
equal "user of the process" "$(awk '/^Uid:/ { print $2, $3, $4, $5 }' "/proc/$pid/status")" "65534 65534 65534 65534"
equal "capabilities" "$(awk '/^Cap(Inh|Prm|Eff|Bnd|Amb):/ { print $2 }' "/proc/$pid/status" | sort -u)" 0000000000000000
equal "no new privileges" "$(awk '/^NoNewPrivs:/ { print $2 }' "/proc/$pid/status")" 1
contains "options of the root file system" "$(awk '$5 == "/" { print "," $6 "," }' "/proc/$pid/mountinfo")" ",ro,"

# Each container in turn, while rows are written.
keep_writing
for service in outboxd rabbitmq postgres prometheus outboxd; do
    say "restarting $service"
    relay restart "$service" 2>/dev/null
    eventually 90 "outboxd is ready after $service" ready
    flows
done
equal "restarts that nobody asked for" "$(restarts "$outboxd")" 0

# A crash: Docker starts it again.
kill -s KILL "$(docker inspect --format '{{.State.Pid}}' "$outboxd")"
eventually 60 "outboxd is ready after a kill" ready
equal "restarts after a kill" "$(restarts "$outboxd")" 1
flows

# A stop under load drains.
begun=$(date +%s)
run_step "Try it" 5
say "outboxd stopped within $(($(date +%s) - begun)) s"
equal "exit status of a stop" "$(docker inspect --format '{{.State.ExitCode}}' "$outboxd")" 0
contains "last line of the log" "$(docker logs --tail 1 "$outboxd" 2>&1)" drained
relay start outboxd
eventually 60 "outboxd is ready after a stop" ready
stop_writing
judge 120

# A restart of the machine: Docker starts all of them again.
tests/docker/engine.sh stop
tests/docker/engine.sh start
for service in postgres rabbitmq outboxd prometheus; do
    eventually 60 "$service runs after a restart of Docker" is_running "$(container $service)"
done
eventually 90 "outboxd is ready after a restart of Docker" ready
flows
judge 60
run_step "Try it" 6
equal "containers that are left" "$(docker ps --all --quiet --filter label=com.docker.compose.project=outboxd)" ""
