#!/bin/sh
# Man pages and completions, in target/dist/pages.
set -eu
cd "$(dirname "$0")/.."
rm -rf target/dist/pages
"${CARGO:-cargo}" run --quiet --locked --package release-pages -- target/dist/pages
