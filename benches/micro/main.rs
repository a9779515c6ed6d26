//! Cost of each step of a message, without a server: `cargo bench --bench micro`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod way;

use std::time::Instant;

use amqp_publisher::publisher::encoding;
use divan::{Bencher, black_box, counter::BytesCount};
use outboxd::ledger::Ordering;
use pg_replication::pgoutput;

/// Allocator of the daemon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAYLOADS: [usize; 3] = [100, 1_000, 100_000];

fn main() {
    divan::main();
}

#[divan::bench(args = PAYLOADS)]
fn decode(bencher: Bencher, payload_bytes: usize) {
    let insert = way::insert(payload_bytes);
    bencher
        .counter(BytesCount::new(insert.len()))
        .bench_local(|| black_box(pgoutput::decode(insert.clone())).is_ok());
}

#[divan::bench(args = PAYLOADS)]
fn map(bencher: Bencher, payload_bytes: usize) {
    let (mapper, insert) = (way::mapper(), way::insert(payload_bytes));
    bencher.bench_local(|| black_box(way::message(&mapper, insert.clone(), 1)));
}

#[divan::bench(args = PAYLOADS)]
fn encode(bencher: Bencher, payload_bytes: usize) {
    let message = way::message(&way::mapper(), way::insert(payload_bytes), 1);
    let mut out = Vec::new();
    bencher.bench_local(|| {
        out.clear();
        encoding::put_publish(black_box(&message.amqp), true, 1, way::FRAME_BYTES_MAX, &mut out).is_ok()
    });
}

/// Measures a window full of other aggregates' messages, which are settled one by one.
#[divan::bench(args = [Ordering::PerAggregate, Ordering::Pipelined])]
fn ledger(bencher: Bencher, ordering: Ordering) {
    let (mapper, insert, now) = (way::mapper(), way::insert(100), Instant::now());
    let mut ledger = way::ledger(ordering, 1_000);
    let (mut commit, mut out) = (0, Vec::new());
    bencher
        .with_inputs(|| {
            commit += 1;
            way::message(&mapper, insert.clone(), commit)
        })
        .bench_local_values(|message| {
            out.clear();
            way::settle(&mut ledger, message, now, &mut out);
        });
}
