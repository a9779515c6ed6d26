//! How fast the relay is, and what it costs, on private nodes and beside the raw ceilings of the same run. `make bench` runs it.
//!
//! Every figure is a ratio, or stands beside what it has to be compared with: absolute ones drift with the machine.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod amqp;
mod backlog;
mod ceilings;
mod contender;
mod drain;
mod figures;
mod plan;
mod queue;
mod stage;
#[path = "../../tests/support/mod.rs"]
mod support;
mod usage;

use contender::Contender;
use plan::Plan;
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
    for subject in &plan.subjects {
        println!("# {subject}, {} rounds", plan.rounds);
        // Nodes of its own: what one subject leaves behind is no burden to the next.
        let stage = Stage::open().await;
        let mut relays = ["pipelined", "per-aggregate"].map(|ordering| Contender::outboxd(&stage, ordering));
        let tables = match *subject {
            "drain" => drain::run(&stage, &mut relays, plan.rounds).await,
            other => unreachable!("{other} is not in the plan"),
        };
        for table in &tables {
            println!("\n## {}\n\n{}", table.title, table.as_markdown());
        }
    }
    ExitCode::SUCCESS
}
