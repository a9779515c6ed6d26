#!/bin/sh
# What is delivered, in target/dist/release: the binaries, without paths of the machine that built them, the list of the crates of each
# (CycloneDX), and the licences and notices of everything that is in them. Arguments: names of binaries; all of them by default.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd)
cargo=${CARGO:-cargo}
cargo_home=$(realpath "${CARGO_HOME:-$HOME/.cargo}")
sysroot=$(rustc --print sysroot)
separator=$(printf '\037')
out=target/dist/release
[ $# -gt 0 ] || set -- outboxd order-service customer-service order-history order-search api-gateway

# Before the flags below, which are for what is delivered.
"$cargo" build --locked --package release-sbom
sbom=${CARGO_TARGET_DIR:-target}/debug/release-sbom

flags=$(printf '%s' "${RUSTFLAGS:-}" | tr -s ' ' "$separator")
for map in "$here=/outboxd" "$cargo_home=/cargo" "$sysroot=/rust"; do
    flags="${flags:+$flags$separator}--remap-path-prefix=$map"
done
export CARGO_ENCODED_RUSTFLAGS="$flags"
export CFLAGS="${CFLAGS:-} -ffile-prefix-map=$here=/outboxd -ffile-prefix-map=$cargo_home=/cargo"

mkdir -p "$out"
for name; do
    # By itself: no feature that another program switches on is in it.
    "$cargo" build --release --locked --target-dir target/dist --package "$name" --bin "$name" \
        --message-format json-render-diagnostics >"$out/$name.messages"
    "$cargo" tree --locked --package "$name" --edges normal,build --prefix depth --format '|{p}|{l}|{r}' >"$out/$name.tree"
    "$sbom" "$name" "$out/$name.tree" "$out/$name.messages" Cargo.lock >"$out/$name.cdx.json"
done

for name; do
    for path in "$here/" "$cargo_home/" "$sysroot/"; do
        if grep -aqF "$path" "$out/$name" "$out/$name.cdx.json"; then
            echo "$name or its list of crates holds a path of this machine: $path" >&2
            exit 1
        fi
    done
done
release/notices.sh "$@" >"$out/THIRD-PARTY-NOTICES"
cp LICENSE-APACHE LICENSE-MIT "$out/"
echo "in $out: $*, with NAME.cdx.json for each, THIRD-PARTY-NOTICES LICENSE-APACHE LICENSE-MIT"
