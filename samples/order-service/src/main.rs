//! The order service.

use chassis::cli::{self, Command, Options};
use clap::Parser;
use order_service::{LISTEN, NAME, QUEUE, run};
use std::process::ExitCode;

/// Accepts orders, and follows each through the saga.
///
/// An order is PENDING until the customer service has decided about its credit: APPROVED or REJECTED. POST /orders, GET /orders, GET /orders/ID, POST /orders/ID/cancel.
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
        None => cli::start(NAME, LISTEN, options, run),
        Some(Command::Redrive(redrive)) => {
            cli::start(NAME, LISTEN, options, async |settings| redrive.run(settings, &[QUEUE]).await)
        }
    }
}
