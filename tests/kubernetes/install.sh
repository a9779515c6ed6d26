#!/bin/sh
# Installs what `make test-kubernetes` needs into target/tools: helm and helm-unittest, built by Go, and kubernetes-validate (Python)
# in the version of requirements.txt beside this file. Does nothing when they are there.

set -eu
helm=v3.22.0
unittest=v1.1.2

here=$(cd "$(dirname "$0")" && pwd)
tools=${here%/tests/kubernetes}/target/tools
mkdir -p "$tools/bin"
# Version of Kubernetes that is assumed without a cluster. Built without these, both take it for 1.20.
set_version=-X=helm.sh/helm/v3/pkg
kubernetes="$set_version/chartutil.k8sVersionMajor=1 $set_version/chartutil.k8sVersionMinor=37"
kubernetes="$kubernetes $set_version/lint/rules.k8sVersionMajor=1 $set_version/lint/rules.k8sVersionMinor=37"

# Go 1.21 and later fetch the version that a module asks for. Debian 12 has an older one.
minor=$(go env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
if [ "${minor:-0}" -lt 21 ]; then
    echo "helm needs Go 1.21 or later, and this machine has $(go env GOVERSION)." >&2
    exit 1
fi

# Builds a program in the module that it is in, whose go.mod replaces other modules: `go install` refuses that.
# A program is there when the version beside it is the wanted one.
build() { # PROGRAM MODULE VERSION
    if [ -x "$tools/bin/$1" ] && [ "$(cat "$tools/bin/.$1-version" 2>/dev/null)" = "$3" ]; then return; fi
    echo "Building $1 $3"
    module=$(cd / && go mod download -json "$2@$3" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    (cd "$module" && go build -trimpath -ldflags "-s -w $kubernetes" -o "$tools/bin/$1" "./cmd/$1")
    echo "$3" >"$tools/bin/.$1-version"
}
build helm helm.sh/helm/v3 "$helm"
build helm-unittest github.com/helm-unittest/helm-unittest "$unittest"

if ! cmp -s "$here/requirements.txt" "$tools/kubernetes/requirements.txt"; then
    rm -rf "$tools/kubernetes"
    python3 -m venv "$tools/kubernetes"
    "$tools/kubernetes/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$tools/kubernetes/"
fi
