//! Allocations per message. Counts do not depend on the machine, as seconds would. A change that raises one by a quarter fails here, and
//! either goes or changes the figure in this file.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../benches/micro/way.rs"]
mod way;

use std::time::Instant;

use allocation_counter::{AllocationInfo, measure};
use outboxd::ledger::Ordering;

const MESSAGES: u64 = 10_000;

/// Runs rows through decoder, mapper, ledger and encoder. Returns what they allocated.
fn way_of(payload_bytes: usize, ordering: Ordering) -> AllocationInfo {
    let (mapper, insert, now) = (way::mapper(), way::insert(payload_bytes), Instant::now());
    let mut ledger = way::ledger(ordering, 1_000);
    let mut out = Vec::with_capacity(payload_bytes + 4_096);
    let mut run = |commits: std::ops::Range<u64>| {
        for commit in commits {
            out.clear();
            way::settle(&mut ledger, way::message(&mapper, insert.clone(), commit), now, &mut out);
        }
    };
    // Warms up, so that one-time allocations are not counted.
    run(1..1_000);
    measure(|| run(1_000..1_000 + MESSAGES))
}

#[test]
fn a_message_costs_no_more_allocations_than_it_did() {
    // Measured values. A quarter more is allowed.
    const ALLOCATIONS: f64 = 17.0;
    const BYTES: f64 = 1401.0;
    const PAYLOAD: usize = 300;
    for ordering in [Ordering::PerAggregate, Ordering::Pipelined] {
        let info = way_of(PAYLOAD, ordering);
        let each = |total: u64| total as f64 / MESSAGES as f64;
        let (allocations, bytes) = (each(info.count_total), each(info.bytes_total));
        println!("{ordering:?}: {allocations:.2} allocations and {bytes:.0} bytes a message");
        assert!(allocations <= ALLOCATIONS * 1.25, "{allocations:.2} allocations a message");
        assert!(bytes <= BYTES * 1.25, "{bytes:.0} bytes a message");
        assert!(
            info.count_current <= 0 || info.bytes_current < 4_096,
            "it keeps {} bytes",
            info.bytes_current
        );
    }
}

/// The only copy of a large body is the one into the socket's buffer.
#[test]
fn a_large_body_is_not_copied_on_its_way() {
    const PAYLOAD: usize = 1_000_000;
    let info = way_of(PAYLOAD, Ordering::PerAggregate);
    let bytes = info.bytes_total / MESSAGES;
    assert!(bytes < 10_000, "{bytes} bytes allocated for a message of {PAYLOAD}");
}
