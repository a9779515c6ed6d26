//! The order history.

use std::process::ExitCode;

use chassis::cli::{HELP, Options};
use clap::Parser;
use order_history::{CUSTOMERS_QUEUE, ORDERS_QUEUE, PROGRAM, rebuild, run};
use projection::Command;

/// Every customer with its orders, from the events of both services.
///
/// A CQRS view in a database of its own: it queries neither service, and answers while both are down. GET
/// /customers/ID/orderhistory?state=...&limit=...&after=..., GET /lag. VIEW_URL=mongodb://user:password@host/database
/// keeps the view in documents; without VIEW_URL it is in the database of DATABASE_URL, with inbox and retained events.
#[derive(Parser)]
#[command(name = "order-history", version, after_help = HELP)]
struct Cli {
    #[command(flatten)]
    options: Options,

    #[command(subcommand)]
    command: Option<Command>,
}

fn main() -> ExitCode {
    let Cli { options, command } = Cli::parse();
    projection::start((PROGRAM, options, command), &[ORDERS_QUEUE, CUSTOMERS_QUEUE], run, rebuild)
}
