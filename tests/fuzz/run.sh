#!/bin/sh
# run.sh SECONDS [TARGET...]: fuzzes each target, or all targets, for that long, beginning with its corpus. Stops at the first
# input that breaks a promise and leaves it in artifacts/. New inputs stay in target/corpus. With MERGE=1 nothing is fuzzed:
# inputs of target/corpus that add coverage go into corpus/, the smallest first.
#
# libFuzzer on the stable toolchain, with the flags that cargo-fuzz sets. A sanitizer would need the nightly toolchain and
# find little in a program without unsafe code.
set -eu
cd "$(dirname "$0")"
seconds=$1
shift
[ $# -gt 0 ] || set -- pgoutput mapping template configuration amqp_frames amqp_properties
command -v c++ >/dev/null || { echo "libFuzzer needs a C++ compiler: apt-get install g++" >&2; exit 1; }

host=$(rustc -vV | sed -n 's/^host: //p')
cp ../../Cargo.lock Cargo.lock
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
	cargo build --release --bins --target "$host"

mkdir -p artifacts
for target in "$@"; do
	fuzzer="target/$host/release/$target"
	found="target/corpus/$target"
	mkdir -p "$found"
	if [ "${MERGE:-}" ]; then
		"$fuzzer" -set_cover_merge=1 -use_counters=0 -max_len=20000 "corpus/$target" "$found"
	else
		"$fuzzer" -max_total_time="$seconds" -max_len=20000 -timeout=20 -print_final_stats=1 \
			-artifact_prefix="artifacts/$target-" "$found" "corpus/$target" </dev/null
	fi
done
