# guardian DIRECTORY SHORT_DIRECTORY, with the reading end of a pipe as standard input.
#
# Waits until the other end of the pipe is closed, which the kernel does however its owner ends. Then ends every
# process whose working directory lies in DIRECTORY, or that a file PID.process there records, and removes both
# directories. Processes with a terminal are left alone: somebody is reading logs there.
#
# The records are for processes that may not dump core: only root sees their working directory.

directory=$1
short_directory=$2
cd / || exit 1
cat >/dev/null

# Sets state, terminal and start time from a line of proc(5), stat.
read_stat() {
    # After the name in parentheses: state, parent, process group, session, terminal; the twentieth is the start time.
    # shellcheck disable=SC2086
    set -- ${1##*) }
    state=$1 terminal=$5 start=${20}
}

left_behind() {
    find /proc -maxdepth 2 -path '/proc/[0-9]*/cwd' \( -lname "$directory" -o -lname "$directory/*" \) 2>/dev/null |
        while IFS=/ read -r _ _ pid _; do
            { read -r stat <"/proc/$pid/stat"; } 2>/dev/null || continue
            read_stat "$stat"
            [ "$terminal" = 0 ] && echo "$pid"
        done
    find "$directory" -maxdepth 3 -name '*.process' 2>/dev/null |
        while read -r file; do
            { read -r recorded <"$file" && pid=${recorded%% *} && read -r stat <"/proc/$pid/stat"; } 2>/dev/null || continue
            read_stat "$recorded"
            began=$start
            read_stat "$stat"
            # Another start: another process, which was given the same id. Z: it ended, and its parent has not looked.
            [ "$terminal" = 0 ] && [ "$start" = "$began" ] && [ "$state" != Z ] && echo "$pid"
        done
}

# QUIT is PostgreSQL's immediate shutdown, which gives its shared memory back, and halts an Erlang node. CONT lets a
# suspended process hear it. The list is made anew each time, because a process may have been starting meanwhile.
# Limits are times, not tries: on a busy machine a look at all processes takes a second.
# The status of `left_behind` is that of its last look, so only its output counts.
since=$(date +%s)
while pids=$(left_behind); [ -n "$pids" ]; do
    waited=$(($(date +%s) - since))
    if [ "$waited" -ge 300 ]; then break; elif [ "$waited" -ge 3 ]; then signal=KILL; else signal=QUIT; fi
    # shellcheck disable=SC2086
    kill -s "$signal" $pids 2>/dev/null
    # shellcheck disable=SC2086
    kill -s CONT $pids 2>/dev/null
    sleep 0.1
done

# A postmaster that was killed leaves its System V segment; the seventh line of its pid file is "key id".
find "$directory" -name postmaster.pid 2>/dev/null | while read -r file; do
    segment=$(sed -n '7s/^ *[0-9]* *//p' "$file")
    [ -n "$segment" ] && ipcrm -m "$segment" 2>/dev/null
done

# A process that ends may still write while the directory is removed.
tries=0
until rm -rf "$directory" "$short_directory" 2>/dev/null || [ "$tries" -ge 60 ]; do
    tries=$((tries + 1))
    sleep 0.5
done
exit 0
