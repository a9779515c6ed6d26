# guardian DIRECTORY SHORT_DIRECTORY, with the reading end of a pipe as standard input.
#
# Waits until the other end of the pipe is closed, which the kernel does however its owner ends, then ends every process
# whose working directory lies in DIRECTORY and removes both directories. Processes with a terminal are left alone:
# those belong to somebody who is reading the logs.

directory=$1
short_directory=$2
cd / || exit 1
cat >/dev/null

left_behind() {
    find /proc -maxdepth 2 -path '/proc/[0-9]*/cwd' \( -lname "$directory" -o -lname "$directory/*" \) 2>/dev/null |
        while IFS=/ read -r _ _ pid _; do
            stat=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
            # After the name in parentheses: state, parent, process group, session, terminal.
            # shellcheck disable=SC2086
            set -- ${stat##*) }
            [ "$5" = 0 ] && echo "$pid"
        done
}

# QUIT is PostgreSQL's immediate shutdown, which gives its shared memory back, and halts an Erlang node. CONT lets a
# suspended process hear it. The list is made anew each time, because a process may have been starting meanwhile.
tries=0
while pids=$(left_behind) && [ -n "$pids" ] && [ "$tries" -lt 100 ]; do
    if [ "$tries" -lt 20 ]; then signal=QUIT; else signal=KILL; fi
    # shellcheck disable=SC2086
    kill -s "$signal" $pids 2>/dev/null
    # shellcheck disable=SC2086
    kill -s CONT $pids 2>/dev/null
    tries=$((tries + 1))
    sleep 0.1
done

# A postmaster that was killed leaves its System V segment; the seventh line of its pid file is "key id".
find "$directory" -name postmaster.pid 2>/dev/null | while read -r file; do
    segment=$(sed -n '7s/^ *[0-9]* *//p' "$file")
    [ -n "$segment" ] && ipcrm -m "$segment" 2>/dev/null
done

rm -rf "$directory" "$short_directory" 2>/dev/null ||
    { sleep 0.5; rm -rf "$directory" "$short_directory"; }
rmdir "${directory%/*}" 2>/dev/null
exit 0
