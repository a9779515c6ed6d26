//! The order search.

use std::process::ExitCode;

use chassis::cli::{HELP, Options};
use clap::Parser;
use order_search::{CUSTOMERS_QUEUE, ORDERS_QUEUE, PROGRAM, rebuild, run};
use projection::Command;

/// Search over orders, and their customers' names, from the events of both services.
///
/// A CQRS view in a text index: it queries neither service, and answers while both are down. GET
/// /orders/search?q=...&state=...&min=...&max=...&limit=...&after=..., GET /lag. VIEW_URL=http://user:password@host:9200/PREFIX
/// names the OpenSearch server, and the prefix of the indices' names; DATABASE_URL has the inbox and the retained events.
#[derive(Parser)]
#[command(name = "order-search", version, after_help = HELP)]
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
