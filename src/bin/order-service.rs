//! The order service.

use clap::Parser;
use outboxd::{
    chassis::cli::{self, Options},
    samples::orders::{LISTEN, NAME, run},
};
use std::process::ExitCode;

/// Takes orders, and follows each through the saga.
///
/// An order is PENDING until the customer service has decided about its credit: APPROVED or REJECTED. POST /orders, GET /orders, GET /orders/ID, POST /orders/ID/cancel.
/// Its events are written to the table outbox of its own database, from where outboxd relays them.
#[derive(Parser)]
#[command(name = "order-service", version, after_help = cli::HELP)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    cli::start(NAME, LISTEN, Cli::parse().options, run)
}
