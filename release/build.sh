#!/bin/sh
# What is delivered, in target/dist/release: the binaries, without paths of the machine that built them, and the licences and
# notices of everything that is in them. Arguments: names of binaries; all of them by default.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd)
cargo=${CARGO:-cargo}
cargo_home=$(realpath "${CARGO_HOME:-$HOME/.cargo}")
sysroot=$(rustc --print sysroot)
separator=$(printf '\037')
flags=$(printf '%s' "${RUSTFLAGS:-}" | tr -s ' ' "$separator")
for map in "$here=/outboxd" "$cargo_home=/cargo" "$sysroot=/rust"; do
    flags="${flags:+$flags$separator}--remap-path-prefix=$map"
done
export CARGO_ENCODED_RUSTFLAGS="$flags"
export CFLAGS="${CFLAGS:-} -ffile-prefix-map=$here=/outboxd -ffile-prefix-map=$cargo_home=/cargo"

[ $# -gt 0 ] || set -- outboxd order-service customer-service order-history order-search api-gateway
# Each by itself: no feature that another program switches on is in it.
for name; do "$cargo" build --release --locked --target-dir target/dist --package "$name" --bin "$name"; done

for name; do
    for path in "$here/" "$cargo_home/" "$sysroot/"; do
        if grep -aqF "$path" "target/dist/release/$name"; then
            echo "$name holds a path of this machine: $path" >&2
            exit 1
        fi
    done
done
release/notices.sh >target/dist/release/THIRD-PARTY-NOTICES
cp LICENSE-APACHE LICENSE-MIT target/dist/release/
echo "in target/dist/release: $* THIRD-PARTY-NOTICES LICENSE-APACHE LICENSE-MIT"
