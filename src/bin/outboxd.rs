//! The daemon and its commands: parse, set the logs up, run, exit.

use clap::Parser;
use outboxd::{
    cli::Cli,
    commands::{self, Failure},
};
use process::telemetry;
use secret::core_dumps;
use std::process::ExitCode;

/// A message is a few small allocations that live for a round trip to the broker: ARCHITECTURE.md, "mimalloc".
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    core_dumps::forbid();
    let ended = outboxd(Cli::parse());
    // Nowhere is left to say that stderr is gone; the exit status still tells.
    telemetry::finish(ended.as_ref().err().map(|failure| format!("outboxd: {failure}")).as_deref());
    ended.err().map_or(ExitCode::SUCCESS, |failure| ExitCode::from(failure.exit_status()))
}

fn outboxd(cli: Cli) -> Result<(), Failure> {
    telemetry::init(cli.log_format).map_err(|error| Failure::configuration(&error))?;
    // One thread: the work is waiting for two sockets for each source, in order.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Runtime(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(commands::dispatch(cli))
}
