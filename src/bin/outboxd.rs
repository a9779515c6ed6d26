//! The program: parses the command line, sets up logs, runs the command, exits.

use clap::Parser;
use outboxd::{
    cli::Cli,
    commands::{self, Failure},
};
use process::telemetry;
use secret::core_dumps;
use std::process::ExitCode;

/// Each message is a few small allocations that live for one round trip to the broker. The C library's allocator spent a third of
/// the daemon's CPU on them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    core_dumps::forbid();
    let ended = outboxd(Cli::parse());
    // An error of stderr itself cannot be reported. The exit status still shows the failure.
    telemetry::finish(ended.as_ref().err().map(|failure| format!("outboxd: {failure}")).as_deref());
    ended.err().map_or(ExitCode::SUCCESS, |failure| ExitCode::from(failure.exit_status()))
}

fn outboxd(cli: Cli) -> Result<(), Failure> {
    telemetry::init(cli.log_format).map_err(|error| Failure::configuration(&error))?;
    // One thread: each source waits for two sockets, in order.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Runtime(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(commands::dispatch(cli))
}
