#!/bin/sh
# Makes the images that the Dockerfile and the compose files name, because no registry is asked. Runs in the machine of machine.sh.
# An image that is there already stays. The entry points say which part of the official images they imitate.
set -eu
cd "$(dirname "$0")"

missing() { ! docker image inspect "$1" >/dev/null 2>&1; }
base() { # SUITE
    missing "debian:$1-slim" || return 0
    root=/var/lib/docker/bootstrap-$1
    rm -rf "$root"
    debootstrap --variant=minbase "$1" "$root" >"/results/debootstrap-$1.log"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" -c . | docker import --change 'CMD ["bash"]' - "debian:$1-slim"
    rm -rf "$root"
}
image() { # NAME FOLDER [ARGUMENT...]
    name=$1 folder=$2
    shift 2
    missing "$name" || return 0
    docker build --tag "$name" "$@" "$folder"
}

base bookworm
base trixie
image rust:1-bookworm rust --build-context toolchain=/toolchain --build-context certificates=/certificates
image postgres:17 postgres
image rabbitmq:4-management rabbitmq
image prom/prometheus prometheus
docker image ls
