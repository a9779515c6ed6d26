# make DIRECTORY PACKAGES: makes a Debian root of these packages in DIRECTORY, unless it is there.
# boot DIRECTORY COPY: boots a copy of that root, which lies in the folder COPY, until it is powered off or this script ends.
#
# Needs root, debootstrap and systemd-nspawn. Mounts and processes lie in namespaces of their own. The namespaces end with this
# script, however the script ends. The booted root has a network of its own, with nothing but a loopback.

set -eu

do=$1
directory=$2
argument=$3
suite=bookworm

fail() { echo "$*" >&2; exit 1; }

make_root() {
    [ "$(cat "$directory/complete" 2>/dev/null)" = "$argument" ] && return
    echo "making a root of Debian $suite in $directory; this takes some minutes" >&2
    rm -rf --one-file-system "$directory"
    mkdir -p "$directory/root"
    debootstrap --include="$argument" "$suite" "$directory/root" ${MIRROR:+"$MIRROR"} >"$directory/log" 2>&1 ||
        fail "debootstrap failed; $directory/log says why: $(tail -n 3 "$directory/log")"
    echo outboxd-test >"$directory/root/etc/hostname"
    printf '127.0.0.1\tlocalhost outboxd-test\n::1\tlocalhost\n' >"$directory/root/etc/hosts"
    rm -rf "$directory/root/var/cache/apt/archives"/*.deb
    printf '%s' "$argument" >"$directory/complete"
}

boot_root() {
    mkdir -p "$argument/upper" "$argument/work" "$argument/root"
    mount -t overlay overlay -o "lowerdir=$directory/root,upperdir=$argument/upper,workdir=$argument/work" "$argument/root"
    exec systemd-nspawn --quiet --boot --directory="$argument/root" --machine=outboxd-test --console=pipe \
        --register=no --keep-unit --private-network
}

# The cgroups of a booted root lie below a group of its own, because two roots would mix theirs in one.
hierarchies() {
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
        [ -e "$hierarchy/cgroup.procs" ] && echo "$hierarchy"
    done
}
enter_group() { # NAME PROCESS
    for hierarchy in $(hierarchies); do
        mkdir -p "$hierarchy/$1"
        echo "$2" >"$hierarchy/$1/cgroup.procs"
    done
}
# Removes the groups of this script, and of scripts that were killed. A group of a running script may be empty for a moment.
remove_groups() {
    for hierarchy in $(hierarchies); do
        for group in "$hierarchy"/outboxd-root-*; do
            owner=${group##*-}
            [ -d "$group" ] && { [ "$owner" = "$$" ] || [ ! -e "/proc/$owner" ]; } || continue
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
        done
    done
}

if [ -n "${OUTBOXD_IN_NAMESPACES:-}" ]; then
    mount --make-rprivate /
    mount -t proc proc /proc
    case $do in
        make) make_root ;;
        boot) boot_root ;;
    esac
    exit
fi

[ "$(id -u)" = 0 ] || fail "a booted root needs root"
for program in debootstrap systemd-nspawn unshare nsenter; do
    command -v "$program" >/dev/null || fail "$program is missing; tests/install.sh systemd installs it"
done
if [ "$do" = make ]; then
    mkdir -p "${directory%/*}"
    exec 9>"$directory.lock"
    flock 9
fi
remove_groups
# `unshare` gets the parent-death signal after a kill -9 too. The signal ends the namespaces' first process, and so all others.
(
    [ "$do" = make ] || enter_group "outboxd-root-$$" "$(sh -c 'echo $PPID')"
    OUTBOXD_IN_NAMESPACES=yes exec setpriv --pdeathsig KILL \
        unshare --mount --pid --ipc --fork --kill-child sh "$0" "$do" "$directory" "$argument" </dev/null
) &
namespaces=$!
end() {
    trap - INT TERM HUP QUIT
    kill -s KILL "$namespaces" 2>/dev/null || true
    wait "$namespaces" 2>/dev/null || true
    # The processes end a moment after the first one.
    for _ in 1 2 3 4 5 6 7 8 9 10; do remove_groups; sleep 0.1; done
    exit "$1"
}
trap 'end 130' INT
trap 'end 143' TERM QUIT
trap 'end 129' HUP
status=0
wait "$namespaces" || status=$?
remove_groups
exit "$status"
