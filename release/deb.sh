#!/bin/sh
# The Debian package, in target/dist/deb. Needs cargo-deb, which `make deb` installs in target/tools.
set -eu
cd "$(dirname "$0")/.."
. release/version.sh
cargo=${CARGO:-cargo}
deb_version=$version-1
out=target/dist/package

release/build.sh outboxd
release/pages.sh
mkdir -p "$out" target/dist/deb
gzip -9nc target/dist/release/THIRD-PARTY-NOTICES >"$out/THIRD-PARTY-NOTICES.gz"
gzip -9nc CHANGELOG.md >"$out/changelog.gz"
cat >"$out/changelog" <<END
outboxd ($deb_version) stable; urgency=medium

  * Version $version: see /usr/share/doc/outboxd/changelog.gz.

 -- The outboxd authors <outboxd@example.org>  $(LC_ALL=C date -u -d "$date" -R)
END

PATH="$PATH:$(pwd)/target/tools/bin" CARGO_TARGET_DIR=target/dist SOURCE_DATE_EPOCH=$epoch "$cargo" deb \
    --locked --no-build --no-strip --package outboxd --deb-version "$deb_version" --output target/dist/deb/
