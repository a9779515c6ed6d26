#!/bin/sh
# rootfs.sh DIRECTORY PROGRAM...: the files of an image without a distribution, for docker/Dockerfile. Programs come from target/dist/release.
set -eu
root=$1
shift
release=target/dist/release

put() { # FILE [DIRECTORY]
    mkdir -p "$root${2:-$(dirname "$1")}"
    cp -L "$1" "$root${2:-$(dirname "$1")}/"
}
for name; do
    put "$release/$name" /usr/local/bin
    # The dynamic loader and the libraries, at their own places.
    ldd "$release/$name" | grep -o '/[^ ]*' | sort -u | while IFS= read -r library; do put "$library"; done
    put "$release/$name.cdx.json" /usr/share/doc/outboxd
done
for text in THIRD-PARTY-NOTICES LICENSE-APACHE LICENSE-MIT; do put "$release/$text" /usr/share/doc/outboxd; done
for package in libc6 libgcc-s1 ca-certificates; do put "/usr/share/doc/$package/copyright" "/usr/share/doc/$package"; done
# For amqps:// and for sslmode=verify-full without sslrootcert.
put /etc/ssl/certs/ca-certificates.crt
mkdir -p "$root/etc"
echo 'nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin' >"$root/etc/passwd"
echo 'nogroup:x:65534:' >"$root/etc/group"
# Names of containers and pods stand in /etc/hosts, which the runtime writes.
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
