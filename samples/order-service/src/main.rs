//! The order service.

use chassis::cli::{self, Command, Options};
use clap::Parser;
use order_service::{PROGRAM, QUEUES, run};
use std::process::ExitCode;

/// Accepts orders, and follows each through its saga.
///
/// An order is PENDING until the customer service has decided about its credit: APPROVED or REJECTED. POST /orders, GET /orders, GET /orders/ID, POST /orders/ID/cancel, GET /orders/ID/saga, GET /sagas/ID.
/// SAGA=orchestration sends commands to the customer service; SAGA=choreography (the default) publishes events only. The metric saga_silent counts sagas without a reply for SAGA_SILENCE_S (60).
/// The service writes its events to the table outbox of its database, and outboxd relays them.
#[derive(Parser)]
#[command(name = "order-service", version, after_help = cli::HELP)]
struct Cli {
    #[command(flatten)]
    options: Options,

    #[command(subcommand)]
    command: Option<Command>,
}

fn main() -> ExitCode {
    let Cli { options, command } = Cli::parse();
    match command {
        None => cli::start(PROGRAM, options, run),
        Some(Command::OfEveryProgram(command)) => command.start(PROGRAM, &options),
        Some(Command::Redrive(redrive)) => {
            cli::start(PROGRAM, options, async |settings| redrive.run(settings, &QUEUES).await)
        }
    }
}
