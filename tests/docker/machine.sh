#!/bin/sh
# machine.sh COMMAND [ARGUMENT...]: runs the command on a Debian 13 with a Docker of its own. Needs root and debootstrap.
#
# debootstrap makes the root in target/docker/machine once. dockerd, the containers and the command run in namespaces of their own
# for mounts, processes, IPC and the network. The namespaces end with this script, however the script ends: no process, no mount,
# no bridge and no rule of a packet filter is left, and a Docker of the machine is neither used nor seen. slirp4netns carries
# the connections of builds (packages, crates) out of the namespace; published ports are open in the namespace only.
# The repository is at /outboxd, read-only. Docker keeps its images and build cache in target/docker/data for the next run.

set -eu

fail() { echo "machine.sh: $*" >&2; exit 1; }

[ $# -gt 0 ] || fail "a command is missing"
repository=$(cd "$(dirname "$0")/../.." && pwd)
target=${TARGET:-$repository/target/docker}
root=$target/machine
# Of engine.sh.
group=outboxd-docker-test

prepare() {
    [ "$(id -u)" = 0 ] || fail "namespaces, mounts and dockerd need root: run it as root"
    for program in debootstrap unshare setpriv cargo rustc; do
        command -v "$program" >/dev/null || fail "$program is missing (debootstrap and util-linux are Debian's packages, Rust comes from rustup)"
    done
    [ -c /dev/net/tun ] || fail "/dev/net/tun is missing: the builds in the namespace have no network without it"
    sysroot=$(cd / && rustc --print sysroot)
    export sysroot
}

# First process of the namespaces for mounts, processes and IPC.
outer() {
    mount --make-rprivate /
    if [ ! -e "$root/complete" ]; then
        rm -rf --one-file-system "$root"
        mkdir -p "$root"
        debootstrap --variant=minbase \
            --include=ca-certificates,curl,debootstrap,docker.io,docker-cli,docker-compose,docker-buildx,iproute2,iptables,jq,procps,slirp4netns \
            trixie "$root" ${MIRROR:+"$MIRROR"}
        touch "$root/complete"
    fi
    mount --bind "$root" "$root"
    mkdir -p "$root/outboxd" "$root/toolchain" "$root/certificates" "$root/var/lib/docker" "$target/data" "$target/results" "$root/results"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/run"
    mount --bind "$target/data" "$root/var/lib/docker"
    mount --bind "$target/results" "$root/results"
    mount --bind "$sysroot" "$root/toolchain"
    mount --bind "$repository" "$root/outboxd"
    cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$root/certificates/ca-certificates.crt"
    for folder in toolchain outboxd; do mount -o remount,bind,ro "$root/$folder"; done
    echo "nameserver 10.0.2.3" >"$root/etc/resolv.conf"
    # No chroot: a command in a container (`docker exec`) begins at the root of the namespace.
    cd "$root"
    pivot_root . .
    umount --lazy .
    exec chroot . env -i HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" DOCKER_CLI_HINTS=false BUILDKIT_PROGRESS=plain \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin OUTBOXD_STAGE=network /outboxd/tests/docker/machine.sh "$@"
}

# The network: a namespace with a way out.
network() {
    unshare --net env OUTBOXD_STAGE=inner /outboxd/tests/docker/machine.sh "$@" &
    inner=$!
    while [ "$(readlink "/proc/$inner/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do
        kill -0 "$inner" || fail "no namespace for the network"
        sleep 0.1
    done
    slirp4netns --configure --mtu=1400 --disable-host-loopback "$inner" tap0 >/run/slirp.log 2>&1 &
    wait "$inner"
}

# Inside: dockerd, then the command.
inner() {
    ip link set lo up
    waited=0
    until ip route | grep -q default; do
        waited=$((waited + 1))
        [ "$waited" -lt 100 ] || { cat /run/slirp.log >&2; fail "slirp4netns gives no network"; }
        sleep 0.1
    done
    rm -f /results/dockerd.log
    /outboxd/tests/docker/engine.sh start
    cd /outboxd
    status=0
    "$@" || status=$?
    # The engine writes its state; containers end with it.
    /outboxd/tests/docker/engine.sh stop
    exit "$status"
}

case ${OUTBOXD_STAGE:-} in
    outer) outer "$@" ;;
    network) network "$@" ;;
    inner) inner "$@" ;;
    *)
        prepare
        mkdir -p "$root"
        exec 9>"$target/lock"
        flock -n 9 || fail "another one runs in $target"
        # `unshare` gets the parent-death signal after a kill -9 too. It ends the namespaces' first process, and so all others.
        OUTBOXD_STAGE=outer setpriv --pdeathsig KILL \
            unshare --mount --pid --ipc --uts --fork --kill-child "$0" "$@" </dev/null &
        namespaces=$!
        end() {
            trap - INT TERM HUP
            kill -s KILL "$namespaces" 2>/dev/null || true
            wait "$namespaces" 2>/dev/null || true
            # Empty groups of the containers. A controller may have this process below another group.
            find /sys/fs/cgroup -depth -path "*/$group*" -type d -exec rmdir {} + 2>/dev/null || true
            exit "$1"
        }
        trap 'end 130' INT
        trap 'end 143' TERM
        trap 'end 129' HUP
        status=0
        wait "$namespaces" || status=$?
        end "$status"
        ;;
esac
