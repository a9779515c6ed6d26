# Expectations, and the steps of a page. For test.sh.

say() { echo "$(date +%T) $*"; }
fail() {
    echo "FAILED: $*" >&2
    docker ps --all >&2 || true
    for container in $(docker ps --all --quiet); do
        echo "--- $(docker inspect --format '{{.Name}} {{.State.Status}} {{.State.ExitCode}} {{json .State.Health}}' "$container")" >&2
        docker logs --tail 30 "$container" >&2 2>&1 || true
    done
    exit 1
}

# Runs a command until it succeeds.
eventually() { # SECONDS WHAT COMMAND...
    until_seconds=$1 until_what=$2
    shift 2
    until_now=0
    until "$@" >/dev/null 2>&1; do
        until_now=$((until_now + 1))
        [ "$until_now" -lt "$until_seconds" ] || fail "not within $until_seconds s: $until_what"
        sleep 1
    done
}

# Succeeds all the time.
throughout() { # SECONDS WHAT COMMAND...
    while_end=$(($(date +%s) + $1)) while_what=$2
    shift 2
    while [ "$(date +%s)" -lt "$while_end" ]; do
        "$@" >/dev/null 2>&1 || fail "not all the time: $while_what"
        sleep 2
    done
}

equal() { # WHAT FOUND EXPECTED
    [ "$2" = "$3" ] || fail "$1: found \"$2\", expected \"$3\""
}
contains() { # WHAT TEXT PART
    case $2 in *"$3"*) ;; *) fail "$1: \"$3\" is not in: $2" ;; esac
}

# The blocks `sh` of a numbered step below a heading of the page.
step_of_page() { # HEADING NUMBER
    awk -v heading="$1" -v number="$2" '
        /^ *```/ { if (open) open = 0; else { open = 1; wanted = inside && step == number && $0 ~ /^ +```sh$/ } next }
        open { if (wanted) { sub(/^   /, ""); print } next }
        /^#+ / { inside = substr($0, index($0, " ") + 1) == heading; step = 0; next }
        inside && /^[0-9]+\. / { step = $0 + 0 }
    ' docs/configure/docker.md
}

# Runs a step of the page, and prints what it prints.
run_step() { # HEADING NUMBER
    step_of_page "$1" "$2" >/tmp/step.sh
    [ -s /tmp/step.sh ] || fail "docs/configure/docker.md: \"$1\" has no step $2 with a block \`sh\`"
    # Long enough for a build on a busy machine.
    timeout 3600 sh -eu /tmp/step.sh || fail "docs/configure/docker.md: step $2 of \"$1\""
}

health() { docker inspect --format '{{.State.Health.Status}}' "$1"; }
restarts() { docker inspect --format '{{.RestartCount}}' "$1"; }
started() { docker inspect --format '{{.State.StartedAt}}' "$1"; }
is_running() { [ "$(docker inspect --format '{{.State.Running}}' "$1")" = true ]; }
is_healthy() { [ "$(health "$1")" = healthy ]; }
ready() { [ "$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:9464/readyz)" = 200 ]; }
not_ready() { [ "$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:9464/readyz)" = 503 ]; }
prometheus() { # QUERY: the value, or nothing
    curl -sG --data-urlencode "query=$1" http://127.0.0.1:9090/api/v1/query | jq -r '.data.result[0].value[1] // empty'
}
