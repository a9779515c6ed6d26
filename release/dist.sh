#!/bin/sh
# The archive for Linux with glibc, in target/dist/archive: the program, man pages, completions, units, an example of the
# configuration, licences and the list of its crates (CycloneDX), with a file of checksums inside and one beside.
set -eu
cd "$(dirname "$0")/.."
. release/version.sh
target=$(rustc -vV | sed -n 's/^host: //p')
name=outboxd-$version-$target
out=target/dist/archive

release/build.sh outboxd
release/pages.sh

# glibc of Debian 12, the oldest system that outboxd is tested on.
newest=2.36
needed=$(objdump -T target/dist/release/outboxd | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
needed=${needed#GLIBC_}
if [ "$(printf '%s\n' "$newest" "$needed" | sort -V | tail -n 1)" != "$newest" ]; then
    echo "target/dist/release/outboxd needs glibc $needed, which Debian 12 (glibc $newest) lacks: build it on Debian 12" >&2
    exit 1
fi

rm -rf "$out"
root=$out/$name
place() { # MODE DIRECTORY FILE...
    mode=$1 directory=$root/$2
    shift 2
    mkdir -p "$directory"
    install -m "$mode" "$@" "$directory/"
}
place 0755 bin target/dist/release/outboxd
place 0644 share/man/man1 target/dist/pages/man1/*
place 0644 share/man/man5 target/dist/pages/man5/*
place 0644 share/bash-completion/completions target/dist/pages/completions/outboxd
place 0644 share/zsh/site-functions target/dist/pages/completions/_outboxd
place 0644 share/fish/vendor_completions.d target/dist/pages/completions/outboxd.fish
place 0644 lib/systemd/system systemd/outboxd.service systemd/outboxd@.service
place 0644 etc/outboxd release/deb/outboxd.toml
place 0644 share/doc/outboxd/examples config/outboxd.toml
place 0644 share/doc/outboxd CHANGELOG.md target/dist/release/outboxd.cdx.json \
    target/dist/release/THIRD-PARTY-NOTICES LICENSE-APACHE LICENSE-MIT

sums=$(cd "$root" && find . -type f | LC_ALL=C sort | sed "s,^\./,," | xargs sha256sum)
printf "%s\n" "$sums" >"$root/SHA256SUMS"
# The same bytes from the same program: sorted, of one date, of nobody.
tar --create --directory "$out" --sort=name --format=gnu --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode=u+w,go-w \
    "$name" | gzip -9n >"$out/$name.tar.gz"
cp target/dist/release/outboxd.cdx.json "$out/$name.cdx.json"
rm -r "$root"
(cd "$out" && sha256sum "$name.tar.gz" "$name.cdx.json" >SHA256SUMS)
echo "in $out: $name.tar.gz (needs glibc $needed), $name.cdx.json, SHA256SUMS"
