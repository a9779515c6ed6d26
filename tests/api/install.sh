#!/bin/sh
# Installs what `make test-api` needs into target/tools: schemathesis (Python) and the AsyncAPI parser (Node), in the versions of
# requirements.txt and package.json beside this file. Does nothing when they are there.

set -eu
here=$(cd "$(dirname "$0")" && pwd)
tools=${here%/tests/api}/target/tools
mkdir -p "$tools"

# A folder is complete when it holds a copy of the file that it was made from.
if ! cmp -s "$here/requirements.txt" "$tools/schemathesis/requirements.txt"; then
    rm -rf "$tools/schemathesis"
    python3 -m venv "$tools/schemathesis"
    "$tools/schemathesis/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$tools/schemathesis/"
fi
if ! cmp -s "$here/package.json" "$tools/asyncapi/complete"; then
    rm -rf "$tools/asyncapi"
    mkdir -p "$tools/asyncapi"
    cp "$here/package.json" "$tools/asyncapi/"
    (cd "$tools/asyncapi" && npm install --silent --ignore-scripts --no-package-lock --no-audit --no-fund)
    cp "$here/package.json" "$tools/asyncapi/complete"
fi
