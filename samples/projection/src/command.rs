//! Commands of a view's program.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use chassis::{
    cli::{self, Options},
    settings::{Program, Settings},
};
use clap::Subcommand;
use process::failure::Failure;

use super::Rebuilt;

/// Commands besides serving.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Rebuild the view from retained events
    ///
    /// Readers see the old view until the new one is complete, and a running service waits.
    /// Dropped tables are created first. If no event is retained, the view stays as it is and the exit status is 1:
    /// `outboxd replay` of both sources then brings the events back.
    Rebuild,
    /// A command that every service has.
    #[command(flatten)]
    OfEveryService(cli::Command),
}

/// Starts the program as its command line says: `serve` without a command. The view consumes `queues`.
pub fn start<S, R>(
    (program, options, command): (Program, Options, Option<Command>),
    queues: &[&str],
    serve: impl FnOnce(Settings) -> S,
    rebuild: impl FnOnce(Settings) -> R,
) -> ExitCode
where
    S: Future<Output = Result<(), Failure>>,
    R: Future<Output = Result<Rebuilt, Failure>>,
{
    match command {
        None => cli::start(program, options, serve),
        Some(Command::OfEveryService(cli::Command::OfEveryProgram(command))) => {
            command.start(program, &options)
        }
        Some(Command::OfEveryService(cli::Command::Redrive(redrive))) => {
            cli::start(program, options, async |settings| redrive.run(settings, queues).await)
        }
        Some(Command::Rebuild) => cli::start(program, options, async |settings| {
            let rebuilt = rebuild(settings).await?;
            writeln!(io::stdout(), "{rebuilt}")
                .map_err(|error| Failure::Runtime(format!("cannot write to stdout: {error}")))
        }),
    }
}
