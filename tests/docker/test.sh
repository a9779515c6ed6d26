#!/bin/sh
# test.sh [PART...]: the compose files, the images and the page docs/configure/docker.md, in the machine of machine.sh.
# Parts: image, relay, lasting, measured, shop; all by default.
#
# The steps of the page are read out of it and run. What each must lead to stands here.
set -eu
cd "$(dirname "$0")/../.."
. tests/docker/expect.sh
. tests/docker/relay.sh

[ $# -gt 0 ] || set -- image relay lasting measured shop
tests/docker/images/make.sh >/results/images.txt

for part; do
    say "part $part"
    . "tests/docker/parts/$part.sh"
done
say "passed: $*"
