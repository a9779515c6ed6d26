#!/bin/sh
# engine.sh start|stop: the dockerd of the machine of machine.sh. Runs inside.
set -eu
pid_file=/run/docker.pid

case $1 in
    start)
        dockerd --host unix:///run/docker.sock --data-root /var/lib/docker --exec-root /run/docker --pidfile "$pid_file" \
            --cgroup-parent outboxd-docker-test >>/results/dockerd.log 2>&1 &
        dockerd=$!
        waited=0
        until docker version >/dev/null 2>&1; do
            waited=$((waited + 1))
            if [ "$waited" -ge 600 ] || ! kill -0 "$dockerd" 2>/dev/null; then
                tail -n 30 /results/dockerd.log >&2
                echo "dockerd does not start" >&2
                exit 1
            fi
            sleep 0.2
        done
        ;;
    stop)
        pid=$(cat "$pid_file")
        kill "$pid"
        # Containers get their grace periods.
        while [ -e "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null; do sleep 0.2; done
        ;;
esac
