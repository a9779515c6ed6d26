//! The relay in a simulated world: the real supervisor, pipeline, backlog, ledger and decoder between a simulated PostgreSQL
//! and a simulated RabbitMQ, in paused time. Every choice comes from one seed, so a failure can be repeated:
//!
//! ```text
//! make test                2,000 seeds from 0: the same for everybody, so that a change is judged by what it changes
//! make simulate            100,000 seeds that nobody has tried, from the clock
//! SEED=n make simulate     one, with a trace
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod broker;
mod commands;
mod faults;
mod fence;
mod lasting;
mod lasting_alone;
mod oracle;
mod parking;
mod postgres;
mod run;
mod sabotage;
mod scenario;
mod wal;
mod world;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use run::{Sums, simulate};
use scenario::Scenario;

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

#[test]
fn every_promise_holds_under_every_seed() {
    if let Some(seed) = from_environment("SEED") {
        return repeat(seed);
    }
    let first = from_environment("FIRST_SEED").unwrap_or(0);
    let count = from_environment("SEEDS").unwrap_or(2_000);
    let began = Instant::now();
    println!("{count} seeds from {first}");
    let next = AtomicU64::new(0);
    let sums = Mutex::new(Sums::default());
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count || failed.lock().unwrap().is_some() {
                        return;
                    }
                    let seed = first + number;
                    let report = simulate(Scenario::new(seed, None), false);
                    sums.lock().unwrap().add(&report);
                    if let Some(violation) = report.violation {
                        failed.lock().unwrap().get_or_insert((number, seed, violation));
                    }
                }
            });
        }
    });
    let sums = sums.into_inner().unwrap();
    if let Some((number, seed, violation)) = failed.into_inner().unwrap() {
        panic!(
            "seed {seed}, number {} of this run: {violation}\nrepeat it with: SEED={seed} make simulate",
            number + 1
        );
    }
    println!(
        "{} seeds in {:.1} s: {} deliveries, of which {} duplicates; {} rows removed",
        sums.seeds,
        began.elapsed().as_secs_f64(),
        sums.deliveries,
        sums.duplicates,
        sums.removals
    );
}

fn repeat(seed: u64) {
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).without_time().with_test_writer().init();
    let report = simulate(Scenario::new(seed, None), true);
    for line in &report.trace {
        println!("{line}");
    }
    assert_eq!(report.violation, None, "seed {seed}");
}

/// Each broke a promise once, the relay's or the oracle's. What a seed means changes with the relay, so that one may have lost its
/// point.
#[test]
fn what_broke_a_promise_once_breaks_none_any_more() {
    const SEEDS: [u64; 16] = [
        // A server sends rows that another instance had confirmed, and that were not asked for.
        1795374688083835,
        // A copy is put back from before a teardown, with the publication of then.
        1795373875096669,
        // A server sends rows from before the position that it was asked for.
        1795370849143523,
        // After a failover one that waits for the fence hears the new server, and its stream is of the old one.
        1795370849069058,
        // While one process recovers, another makes the slot, and finds the gap before it uses it.
        1795362442037462,
        // Rows are parked on a server that was set back, before anybody has looked at it.
        1795366956009268,
        1795366956083310,
        1795368226051338,
        // Who skips the backlog makes a first slot on a server that was set back to before its record.
        1795366956018053,
        // The publication went with a teardown, and then the server is another.
        1795366956020944,
        // A row that was skipped holds up the recovery.
        1795366956066884,
        // The server has not noticed yet that a process was killed, which tells it nothing any more.
        1795368226040115,
        // The last suspect of a lot goes alone, and the next lot begins beside it.
        1795841743003451,
        // A look at the slot comes just before the record is due, which then waits for another second.
        1795841743005237,
        // The stream hangs, and meanwhile the record is written on an older copy, whose WAL then reaches as far as the server's did.
        1795841743016706,
        // Everything is torn down and made anew by another, before the one that had the slot has looked at its publication.
        1795848789014003,
    ];
    for seed in SEEDS {
        assert_eq!(simulate(Scenario::new(seed, None), false).violation, None, "seed {seed}");
    }
}

#[test]
fn a_seed_is_the_same_simulation_every_time() {
    for seed in 0..20 {
        let trace = || simulate(Scenario::new(seed, None), true).trace;
        let (first, second) = (trace(), trace());
        for (number, (one, other)) in first.iter().zip(&second).enumerate() {
            assert_eq!(one, other, "seed {seed}, line {number}");
        }
        assert_eq!(first.len(), second.len());
    }
}
