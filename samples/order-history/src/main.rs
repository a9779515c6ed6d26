//! The order history.

use chassis::{
    cli::{self, Options},
    settings::Settings,
};
use clap::{Parser, Subcommand};
use order_history::{CUSTOMERS_QUEUE, ORDERS_QUEUE, PROGRAM, rebuild, run};
use process::failure::Failure;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Every customer with its orders, from the events of both services.
///
/// A CQRS view in a database of its own: it queries neither service, and answers while both are down. GET
/// /customers/ID/orderhistory?state=...&limit=...&after=..., GET /lag. VIEW_URL=mongodb://user:password@host/database
/// keeps the view in documents; without VIEW_URL it is in the database of DATABASE_URL, with inbox and retained events.
#[derive(Parser)]
#[command(name = "order-history", version, after_help = cli::HELP)]
struct Cli {
    #[command(flatten)]
    options: Options,

    #[command(subcommand)]
    command: Option<Command>,
}

/// Commands besides serving.
#[derive(Subcommand)]
enum Command {
    /// Rebuild the view from retained events
    ///
    /// Readers see the old view until the new one is complete, and a running service waits.
    /// Dropped tables are created first. If no event is retained, the view stays as it is and the exit status is 1:
    /// `outboxd replay` of both sources then brings the events back.
    Rebuild,
    #[command(flatten)]
    OfEveryService(cli::Command),
}

fn main() -> ExitCode {
    let Cli { options, command } = Cli::parse();
    match command {
        None => cli::start(PROGRAM, options, run),
        Some(Command::OfEveryService(cli::Command::Redrive(redrive))) => {
            let queues = [ORDERS_QUEUE, CUSTOMERS_QUEUE];
            cli::start(PROGRAM, options, async |settings| redrive.run(settings, &queues).await)
        }
        Some(Command::Rebuild) => cli::start(PROGRAM, options, rebuilt),
    }
}

async fn rebuilt(settings: Settings) -> Result<(), Failure> {
    let rebuilt = rebuild(settings).await?;
    writeln!(io::stdout(), "{rebuilt}")
        .map_err(|error| Failure::Runtime(format!("cannot write to stdout: {error}")))
}
