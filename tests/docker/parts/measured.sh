# What docs/configure/docker.md says about sizes, start and memory: /results/measured.md. The bounds here are generous; the figures are not.

relay down --volumes 2>/dev/null
relay up --detach --wait
outboxd=$(container outboxd)
eventually 90 "outboxd is ready" ready
shopsize=
if docker image inspect outboxd-shop >/dev/null 2>&1; then shopsize=$(docker image inspect --format '{{.Size}}' outboxd-shop); fi

now_ms() { echo $(($(date +%s%N) / 1000000)); }
megabytes() { awk -v bytes="$1" 'BEGIN { printf "%.1f", bytes / 1000000 }'; }
# Peak memory of the container's group, by version 1 or 2 of cgroups.
group_peak() {
    awk -F: '$2 == "memory" { print "/sys/fs/cgroup/memory" $3 "/memory.max_usage_in_bytes" } $1 == 0 { print "/sys/fs/cgroup" $3 "/memory.peak" }' \
        "/proc/$(docker inspect --format '{{.State.Pid}}' "$outboxd")/cgroup" | while IFS= read -r file; do
        [ ! -r "$file" ] || cat "$file"
    done | grep . || fail "the memory group of the container is not found"
}
process() { # FIELD: bytes
    awk -v field="$1:" '$1 == field { print $2 * 1024 }' "/proc/$(docker inspect --format '{{.State.Pid}}' "$outboxd")/status"
}

starts=
for attempt in 1 2 3 4 5; do
    relay stop outboxd 2>/dev/null
    begun=$(now_ms)
    docker start "$outboxd" >/dev/null
    until ready; do sleep 0.01; done
    starts="$starts $(($(now_ms) - begun))"
done
start=$(printf '%s\n' $starts | sort -n | sed -n 3p)
eventually 30 "healthy after a start" is_healthy "$outboxd"

sleep 10
idle=$(process VmRSS)
idle_stats=$(docker stats --no-stream --format '{{.MemUsage}}' "$outboxd")

relay stop outboxd 2>/dev/null
sql "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
    SELECT 'Order', (n % 1000)::text, 'OrderPlaced', jsonb_build_object('orderId', n, 'note', repeat('x', 200)) FROM generate_series(1, 100000) AS n"
begun=$(now_ms)
docker start "$outboxd" >/dev/null
until [ "$(curl -s http://127.0.0.1:9464/metrics | awk '/^outboxd_messages_confirmed_total/ { print $2 }')" = 100000 ]; do
    [ $(($(now_ms) - begun)) -lt 300000 ] || fail "100,000 rows are not out within 300 s"
    sleep 0.2
done
took=$(($(now_ms) - begun))
peak=$(process VmHWM)
group=$(group_peak)

size=$(docker image inspect --format '{{.Size}}' outboxd)
packed=$(docker save outboxd | gzip | wc -c)
{
    echo "| what | value |"
    echo "| --- | --- |"
    echo "| image of outboxd, unpacked | $(megabytes "$size") MB |"
    echo "| image of outboxd, compressed | $(megabytes "$packed") MB |"
    [ -z "$shopsize" ] || echo "| image of the four sample services, unpacked | $(megabytes "$shopsize") MB |"
    echo "| \`docker start\` until \`/readyz\` answers 200, median of 5 | $start ms |"
    echo "| memory of the process, idle (VmRSS, with the program's own pages) | $(megabytes "$idle") MB |"
    echo "| \`docker stats\`, idle | ${idle_stats%% /*} |"
    echo "| backlog of 100,000 rows of 250 bytes | $((took / 1000)).$((took % 1000 / 100)) s, with the start |"
    echo "| memory of the process during the backlog, peak (VmHWM) | $(megabytes "$peak") MB |"
    echo "| memory of the container's group during the backlog, peak | $(megabytes "$group") MB |"
} >/results/measured.md
cat /results/measured.md
[ "$size" -lt 40000000 ] || fail "the image has $size bytes"
[ "$start" -lt 10000 ] || fail "a start takes $start ms"
[ "$peak" -lt 100000000 ] || fail "the process took $peak bytes"
relay down --volumes 2>/dev/null
