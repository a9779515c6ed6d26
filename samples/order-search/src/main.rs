//! The order search.

use chassis::{
    cli::{self, Options},
    settings::Settings,
};
use clap::{Parser, Subcommand};
use order_search::{CUSTOMERS_QUEUE, ORDERS_QUEUE, PROGRAM, rebuild, run};
use process::failure::Failure;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Search over orders, and their customers' names, from the events of both services.
///
/// A CQRS view in a text index: it queries neither service, and answers while both are down. GET
/// /orders/search?q=...&state=...&min=...&max=...&limit=...&after=..., GET /lag. VIEW_URL=http://user:password@host:9200/PREFIX
/// names the OpenSearch server, and the prefix of the indices' names; DATABASE_URL has the inbox and the retained events.
#[derive(Parser)]
#[command(name = "order-search", version, after_help = cli::HELP)]
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
