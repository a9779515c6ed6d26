# Sourced: version of what is delivered, and date and epoch of the first section of CHANGELOG.md that has one. Files carry this date
# instead of the time of the build, so that two builds of one version give the same package.
# shellcheck shell=sh
heading=$(grep -m1 '^## .* - ' CHANGELOG.md)
date=${heading##* }
# shellcheck disable=SC2034
epoch=$(date -u -d "$date" +%s)
# shellcheck disable=SC2034
version=$(sed -n '/^\[workspace.package\]/,/^\[package\]/s/^version = "\(.*\)"/\1/p' Cargo.toml)
