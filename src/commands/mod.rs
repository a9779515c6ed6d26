//! One file for each command, and what they share: reading the settings, answering on stdout, failing.
//!
//! A command returns its [`Failure`]; only the binary prints it and exits.

mod check;
mod checklist;
mod run;
mod schema;
mod setup;
mod slots;
mod status;
mod table;
mod teardown;

pub use crate::failure::Failure;
use crate::failure::chain;
use crate::{
    cli::{Cli, Command},
    settings::{self, Settings},
};
use std::{
    env,
    io::{self, Write},
};

/// Does what the command line asks for.
pub async fn dispatch(cli: Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Run => run::run(settings(&cli)?).await,
        Command::Check(options) => check::run(settings(&cli)?, options).await,
        Command::Setup(options) => setup::run(settings(&cli)?, options).await,
        Command::Teardown(options) => teardown::run(settings(&cli)?, options).await,
        Command::Status(options) => status::run(settings(&cli)?, options).await,
        Command::Schema(options) => schema::run(options),
    }
}

fn settings(cli: &Cli) -> Result<Settings, Failure> {
    let file = cli.config_file(env::var_os(crate::cli::CONFIG_VARIABLE));
    settings::load(&file).map_err(|error| Failure::Configuration(error.to_string()))
}

/// Writes a command's answer to stdout. A reader that has seen enough (`outboxd status | head -1`) is no failure.
fn answer(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Runtime(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
