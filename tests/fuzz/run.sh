#!/bin/sh
# Fuzzes each target, or $TARGET, for $SECONDS (60), beginning with its corpus; stops at the first input that breaks a
# promise and leaves it in artifacts/. What was found on the way is kept in target/corpus until MERGE=1 puts what adds
# coverage into corpus/.
#
# libFuzzer on the stable toolchain: the flags are those that cargo-fuzz sets, without a sanitizer, which would take a
# nightly one and find little in a program that has no unsafe code.
set -eu
cd "$(dirname "$0")"
targets=${TARGET:-pgoutput mapping template configuration}
seconds=${SECONDS:-60}

host=$(rustc -vV | sed -n 's/^host: //p')
cp ../../Cargo.lock Cargo.lock
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
	cargo build --release --bins --target "$host"

mkdir -p artifacts
for target in $targets; do
	fuzzer="target/$host/release/$target"
	mkdir -p "target/corpus/$target"
	if [ "${MERGE:-}" ]; then
		"$fuzzer" -merge=1 -max_len=20000 "corpus/$target" "target/corpus/$target"
	else
		"$fuzzer" -max_total_time="$seconds" -max_len=20000 -timeout=10 -print_final_stats=1 \
			-artifact_prefix="artifacts/$target-" "target/corpus/$target" "corpus/$target" </dev/null
	fi
done
