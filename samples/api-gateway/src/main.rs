//! The API gateway.

use api_gateway::{HELP, PROGRAM, run};
use chassis::cli::{self, CommonCommand, Options};
use clap::Parser;
use std::process::ExitCode;

/// One address for browsers in front of the sample services.
///
/// Composes a customer with its orders, forwards the other requests, and streams the orders' events. A service that fails or hangs
/// costs its part of an answer, at most for the time limit: a circuit breaker for each service refuses calls while the service is
/// away. The page is at /.
#[derive(Parser)]
#[command(name = "api-gateway", version, after_help = HELP)]
struct Cli {
    #[command(flatten)]
    options: Options,

    #[command(subcommand)]
    command: Option<CommonCommand>,
}

fn main() -> ExitCode {
    let Cli { options, command } = Cli::parse();
    match command {
        None => cli::start(PROGRAM, options, run),
        Some(command) => command.start(PROGRAM, &options),
    }
}
