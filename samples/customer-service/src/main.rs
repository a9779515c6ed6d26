//! The customer service.

use chassis::cli::{self, Command, Options};
use clap::Parser;
use customer_service::{PROGRAM, QUEUES, run};
use std::process::ExitCode;

/// Keeps each customer's credit limit, and reserves credit for orders.
///
/// Reserves credit when an order is placed and releases it when the order is cancelled; no customer's limit is ever exceeded. POST /customers, GET /customers, GET /customers/ID.
/// The service writes its events to the table outbox of its database, and outboxd relays them.
#[derive(Parser)]
#[command(name = "customer-service", version, after_help = cli::HELP)]
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
