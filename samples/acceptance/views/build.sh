#!/bin/sh
# Builds the stores of the views' tests in target/views: FerretDB, a Go program, and OpenSearch, a Java program with its libraries.
# Go and Maven fetch what they need once; a second run needs no network.
set -eu
cd "$(dirname "$0")"
here=$(pwd)
mkdir -p ../../../target/views
target=$(cd ../../../target/views && pwd)

# The sources and versions of what is there already.
made() { [ -e "$target/$1.made" ] && [ "$(cat "$target/$1.made")" = "$(version "$1")" ]; }
version() { (cd "$here/$1" && find . -type f | LC_ALL=C sort | xargs cat | cksum); }

if ! made ferretdb; then
    echo "Building FerretDB; the first time takes some minutes"
    (cd ferretdb && go build -o "$target/ferretdb" .)
    version ferretdb >"$target/ferretdb.made"
fi
if ! made opensearch; then
    echo "Building OpenSearch"
    rm -rf "$target/opensearch"
    mkdir -p "$target/opensearch"
    (cd opensearch && mvn -q -B -Dmaven.repo.local="$target/maven" dependency:copy-dependencies -DoutputDirectory="$target/opensearch/lib")
    javac -cp "$target/opensearch/lib/*" -d "$target/opensearch/classes" opensearch/src/main/java/*.java
    version opensearch >"$target/opensearch.made"
fi
