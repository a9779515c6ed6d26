# States that last: a server that stays away, a wrong password. The container stays healthy and is not restarted, and every row arrives.
# Longer than three health checks in a row, after which Docker would call the container unhealthy.
long=${LONG:-60}

begin
relay up --detach --wait
outboxd=$(container outboxd)
eventually 90 "outboxd is ready" ready
before=$(restarts "$outboxd") since=$(started "$outboxd")
waits() { is_healthy "$1" && not_ready; }
unharmed() { # WHAT
    is_healthy "$outboxd" || fail "$1: outboxd is $(health "$outboxd")"
    equal "restarts: $1" "$(restarts "$outboxd")" "$before"
    equal "start: $1" "$(started "$outboxd")" "$since"
}

for away in rabbitmq postgres; do
    say "without $away for $long s"
    relay stop "$away" 2>/dev/null
    eventually 30 "outboxd is not ready without $away" not_ready
    [ "$away" = postgres ] || insert 7 500 >/dev/null
    throughout "$long" "healthy and not ready without $away" waits "$outboxd"
    unharmed "without $away"
    relay start "$away" 2>/dev/null
    eventually 120 "outboxd is ready with $away again" ready
    flows
done
say "without both for $long s"
relay stop postgres rabbitmq 2>/dev/null
throughout "$long" "healthy without both" is_healthy "$outboxd"
unharmed "without both"
relay start postgres rabbitmq 2>/dev/null
eventually 120 "outboxd is ready with both again" ready
flows
judge 120

# A wrong password in a file, which is put right while the container runs. The directory is mounted, so that a replaced file is seen.
mkdir -p /run/secrets-of-outboxd
echo wrong >/run/secrets-of-outboxd/postgres
network=$(docker inspect --format '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}' "$outboxd")
relay stop outboxd 2>/dev/null
other=$(docker run -d --network "$network" --read-only --cap-drop ALL --security-opt no-new-privileges:true --restart unless-stopped \
    -v "$PWD/docker/outboxd.toml:/etc/outboxd/outboxd.toml:ro" -v /run/secrets-of-outboxd:/run/secrets:ro \
    -e OUTBOXD__ADMIN__LISTEN=0.0.0.0:9464 \
    -e OUTBOXD__SOURCES__ORDERS__POSTGRES__URL=postgresql://outboxd@postgres:5432/orders \
    -e OUTBOXD__SOURCES__ORDERS__POSTGRES__PASSWORD_FILE=/run/secrets/postgres \
    -p 127.0.0.1:9464:9464 outboxd)
eventually 30 "the container with the wrong password is healthy" is_healthy "$other"
throughout "$long" "healthy and not ready with a wrong password" waits "$other"
contains "reason with a wrong password" "$(curl -s http://127.0.0.1:9464/readyz)" "password authentication failed"
echo secret >/run/secrets-of-outboxd/new
mv /run/secrets-of-outboxd/new /run/secrets-of-outboxd/postgres
eventually 60 "outboxd is ready with the right password" ready
equal "restarts with a wrong password" "$(restarts "$other")" 0
flows
docker stop --time 45 "$other" >/dev/null
equal "exit status" "$(docker inspect --format '{{.State.ExitCode}}' "$other")" 0
docker rm "$other" >/dev/null

is_unhealthy() { [ "$(health "$1")" = unhealthy ]; }
# A process that hangs is unhealthy, and healthy again when it goes on.
relay start outboxd 2>/dev/null
eventually 60 "outboxd is ready" ready
pid=$(docker inspect --format '{{.State.Pid}}' "$outboxd")
kill -s STOP "$pid"
eventually 90 "a process that hangs is unhealthy" is_unhealthy "$outboxd"
kill -s CONT "$pid"
eventually 60 "the process that goes on is healthy" is_healthy "$outboxd"
flows
judge 60
