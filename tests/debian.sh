#!/bin/sh
# debian.sh SUITE [TARGET...]: runs `make demo` and `make test`, or the targets, in a bare Debian of that suite. Needs root.
#
# debootstrap makes the root in target/debian/SUITE once; builds stay in it. Rust and its registry come from this machine.
# `make prerequisites` installs everything else from the suite's packages, as on a fresh machine.
# Everything runs in its own namespaces for mounts, processes and IPC. The namespaces end with this script, however the
# script ends, so no mount and no process is left.

set -eu

fail() { echo "debian.sh: $*" >&2; exit 1; }

suite=${1:?"debian.sh SUITE [TARGET...]: the suite is bookworm or trixie"}
shift
[ $# -gt 0 ] || set -- demo test

repository=$(cd "$(dirname "$0")/.." && pwd)
root=$repository/target/debian/$suite

prepare() {
    [ "$(id -u)" = 0 ] || fail "chroot and mounts need root: run it as root; CONTRIBUTING.md has the line for sudo"
    for program in debootstrap unshare setpriv cargo rustc; do
        command -v "$program" >/dev/null || fail "$program is missing (debootstrap and util-linux are Debian's packages, Rust comes from rustup)"
    done
    sysroot=$(cd / && rustc --print sysroot)
    [ "$sysroot" != /usr ] || fail "the suite brings its own /usr: use a toolchain of rustup, which lies elsewhere"
    cargo_home=${CARGO_HOME:-${HOME:?}/.cargo}
    # cargo needs no network inside the root.
    cargo fetch --locked --manifest-path "$repository/Cargo.toml"
    export sysroot cargo_home
}

# The first process in the namespaces.
inside() {
    mount --make-rprivate /
    if [ ! -e "$root/complete" ]; then
        rm -rf --one-file-system "$root"
        mkdir -p "$root"
        debootstrap --variant=minbase --include=ca-certificates,make "$suite" "$root" ${MIRROR:+"$MIRROR"}
        touch "$root/complete"
    fi
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    mkdir -p "$root/outboxd" "$root$sysroot" "$root$cargo_home"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount --bind "$cargo_home" "$root$cargo_home"
    mount --bind "$sysroot" "$root$sysroot"
    mount --bind "$repository" "$root/outboxd"
    # Tests write into their target folder only.
    for folder in "$sysroot" /outboxd; do mount -o remount,bind,ro "$root$folder"; done

    echo "Debian $(cat "$root/etc/debian_version"), $suite: make $*"
    # shellcheck disable=SC2016
    chroot "$root" env -i HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" RUST_BACKTRACE=1 \
        PATH="$sysroot/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        CARGO_HOME="$cargo_home" CARGO_NET_OFFLINE=true CARGO_TARGET_DIR=/build \
        sh -c 'cd /outboxd && for target; do make "$target" || exit; done' sh "$@"
}

if [ -n "${OUTBOXD_IN_NAMESPACES:-}" ]; then
    inside "$@"
    exit
fi

prepare
mkdir -p "$root"
exec 9>"$root.lock"
flock -n 9 || fail "another one runs in $root"
# `unshare` gets the parent-death signal after a kill -9 too. The signal ends the namespaces' first process, and so all others.
OUTBOXD_IN_NAMESPACES=yes setpriv --pdeathsig KILL \
    unshare --mount --pid --ipc --fork --kill-child "$0" "$suite" "$@" </dev/null &
namespaces=$!
end() {
    trap - INT TERM HUP
    kill -s KILL "$namespaces" 2>/dev/null || true
    wait "$namespaces" 2>/dev/null || true
    exit "$1"
}
trap 'end 130' INT
trap 'end 143' TERM
trap 'end 129' HUP
wait "$namespaces"
