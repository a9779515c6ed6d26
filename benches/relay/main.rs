//! Benchmark of the relay on private nodes, beside the raw ceilings of the same run. `make bench` runs it.
//!
//! Every figure is a ratio or stands beside a reference, because absolute figures vary with the machine. `drain`,
//! `latency`, `memory`, `start`, `takeover`, `kill` and `growth` measure and return tables; `record` keeps them, and
//! `report` shows them. A measured relay is a `Contender`, and is observed through its queue.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod amqp;
mod arrivals;
mod backlog;
mod ceilings;
mod comparison;
mod contender;
mod distance;
mod drain;
mod figures;
mod growth;
mod kill;
mod latency;
mod memory;
mod peer;
mod pictures;
mod plan;
mod queue;
mod record;
mod report;
mod stage;
mod start;
mod takeover;
mod targets;
mod usage;

use contender::Contender;
use peer::{PEERS, Peer};
use plan::{Plan, Subject};
use record::Section;
use stage::Stage;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let plan = match Plan::from_arguments() {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            println!("{}", Plan::usage());
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n{}", Plan::usage());
            return ExitCode::from(2);
        }
    };
    if plan.write {
        report::write(&record::recorded().expect("figures read")).expect("figures written");
    }
    for subject in &plan.subjects {
        if plan.lacks_peers(subject) {
            println!("# {} is left out: no PEERS", subject.name);
            continue;
        }
        println!("# {}, rounds: {}", subject.name, plan.rounds_of(subject));
        let section = measure(subject, &plan).await;
        section.print();
        if plan.is_recorded(subject) {
            record::keep(subject, &section).expect("figures recorded");
            report::write(&record::recorded().expect("figures read")).expect("figures written");
        } else {
            println!("Not recorded: figures take {} rounds.", subject.rounds);
        }
    }
    ExitCode::SUCCESS
}

/// Measures a subject on nodes of its own, without the remains of others.
async fn measure(subject: &Subject, plan: &Plan) -> Section {
    let rounds = plan.rounds_of(subject);
    let stage = Stage::open().await;
    let mut relays: Vec<Contender> =
        ["pipelined", "per-aggregate"].map(|ordering| Contender::outboxd(&stage, ordering)).into();
    relays.extend(peers(&stage, plan, subject).await);
    let (tables, series) = match subject.name {
        "drain" | "peers" => (drain::run(&stage, &mut relays, rounds).await, Vec::new()),
        "latency" => latency::run(&stage, &mut relays, rounds).await,
        "memory" => memory::run(&stage, rounds).await,
        "start" => (start::run(&stage, &mut relays, rounds).await, Vec::new()),
        "takeover" => (takeover::run(&stage, rounds).await, Vec::new()),
        "kill" => (kill::run(&stage, &mut relays, rounds).await, Vec::new()),
        dimension => (growth::run(&stage, dimension, rounds).await, Vec::new()),
    };
    Section::of(&stage, plan, subject, tables, series).await
}

/// Fetches the peers, and prints why others are omitted.
async fn peers(stage: &Stage, plan: &Plan, subject: &Subject) -> Vec<Contender> {
    let mut there = Vec::new();
    for entry in PEERS.iter().filter(|entry| plan.wants_peer(subject, entry.folder)) {
        match Peer::fetch(stage, entry).await {
            Ok(peer) => there.push(Contender::peer(peer)),
            Err(reason) => println!("{} is left out: {reason}", entry.folder),
        }
    }
    there
}
