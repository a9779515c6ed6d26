//! Chaos on real nodes: outboxd, PostgreSQL and RabbitMQ are killed, stopped, frozen, cut off, and shown a wrong time while services
//! write. The verdict covers every row.
//!
//! ```text
//! make chaos                     an hour
//! CHAOS_MINUTES=5 make chaos     five minutes
//! SEED=n make chaos              the choices of an earlier run
//! ONLY=password make chaos       only faults whose name contains this word
//! ```
//!
//! A seed decides the rows and the faults, with their order and duration. The timing depends on the machine, so a run cannot be
//! repeated exactly: a failure keeps the logs.
//!
//! [`plan`] and [`faults`] describe the faults, [`queues`] the observation, [`verdict`] the checks.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod arrivals;
mod clock;
mod conclusion;
mod faults;
mod plan;
mod promises;
mod queues;
mod report;
mod run;
mod strike;
mod verdict;
mod watch;
mod world;
mod writers;

use std::{env, fs, path::Path, time::Duration};

use run::Extent;

/// Length of the run in `make test`.
const SHORT: Extent = Extent::Rounds(6);
/// Seed of that run: it draws a refused row and a full queue alone, two faults at a time, a standby, and a restart of each server.
const SHORT_SEED: u64 = 161;

fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_through_every_fault() {
    let extent =
        number("CHAOS_MINUTES").map_or(SHORT, |minutes| Extent::Time(Duration::from_secs(60 * minutes)));
    // The short run always has the same choices, so that a failure comes from a change. Each long run has new ones.
    let seed = number("SEED").unwrap_or_else(|| match extent {
        Extent::Rounds(_) => SHORT_SEED,
        Extent::Time(_) => fastrand::u64(..1 << 48),
    });
    let only = env::var("ONLY").unwrap_or_default();
    println!("seed {seed}, {extent:?}");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("chaos");
    let logs = folder.join(format!("logs-of-seed-{seed}"));
    let report = run::run(seed, &only, extent, &logs).await;
    let file = folder.join("report.md");
    fs::create_dir_all(&folder).expect("folder made");
    fs::write(&file, report.to_string()).expect("report written");
    println!("\n{report}\nwritten to {}", file.display());
    assert!(
        report.failures.is_empty(),
        "seed {seed}: {}\nthe logs are in {}; the same choices again: SEED={seed} make chaos",
        report.failures.join("\n"),
        logs.display()
    );
}
