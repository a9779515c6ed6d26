#!/bin/sh
# The licence of each crate that is in the binaries, and the texts that the crate brings along: its own, and those of C libraries in
# it. On standard output. Arguments: names of binaries.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
sources=${CARGO_HOME:-$HOME/.cargo}/registry/src

seen=$(mktemp -d)
trap 'rm -rf "$seen"' EXIT

# A text that came before is only named.
texts() { # DIRECTORY CRATE
    find "$1" -type f \( -iname 'LICEN[CS]E*' -o -iname 'COPYING*' -o -iname 'NOTICE*' -o -iname 'UNLICENSE*' -o -iname 'COPYRIGHT*' \) \
        ! -name '*.rs' ! -name '*.toml' | LC_ALL=C sort | while IFS= read -r text; do
        sum=$(sha256sum "$text")
        sum=${sum%% *}
        if [ -e "$seen/$sum" ]; then
            printf '\n--- %s: the same as %s\n' "${text#"$1"/}" "$(cat "$seen/$sum")"
        else
            printf '%s of %s' "${text#"$1"/}" "$2" >"$seen/$sum"
            printf '\n--- %s\n\n' "${text#"$1"/}"
            cat "$text"
        fi
    done
}

echo "outboxd is licensed under MIT or Apache-2.0. Its binaries hold the Rust standard library (MIT or Apache-2.0) and these crates:"
# Into a file: the failure of a first command in a pipe goes unseen.
for name; do "$cargo" tree --locked --package "$name" --edges normal --prefix none --format '{p}|{l}|{r}'; done >"$seen/tree"
sed 's/ (\*)$//' "$seen/tree" | LC_ALL=C sort -u >"$seen/crates"
[ "$(wc -l <"$seen/crates")" -ge 50 ] || { echo "cargo tree names fewer than 50 crates" >&2; exit 1; }
while IFS='|' read -r package license repository; do
    # "name v1.2.3", and for some "(proc-macro)", which is not in the binary; of the workspace itself the path.
    case $package in "" | *\ \(/* | *proc-macro*) continue ;; esac
    name=${package%% *}
    version=${package#* v}
    directory=$(find "$sources" -mindepth 2 -maxdepth 2 -type d -name "$name-${version%% *}" | head -n 1)
    [ -n "$directory" ] || { echo "the source of $package is not in $sources" >&2; exit 1; }
    printf '\n========================================================================\n%s %s\n%s\n%s\n' \
        "$name" "${version%% *}" "${license:?$package has no license}" "$repository"
    texts "$directory" "$name"
done <"$seen/crates"
