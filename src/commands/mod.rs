//! The commands, one file each, and what they share: reading the settings, writing to stdout, failing.
//!
//! A command returns its [`Failure`]; only the binary prints it and exits.

mod ask;
mod check;
mod checklist;
mod health;
mod parked;
mod recover;
mod replay;
mod run;
mod schema;
mod service_manager;
mod setup;
mod slots;
mod status;
mod stop;
mod table;
mod teardown;

use crate::{
    cli::{Cli, Command},
    relay::Source,
    settings::{self, Settings},
};
use diagnostics::legible;
use diagnostics::{chain, nearest};
pub use process::failure::Failure;
use process::shutdown::OtherSignals;
use std::{
    env,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
};
use stop::until_stopped;

/// Runs the command of the command line.
///
/// # Errors
///
/// Returns the [`Failure`] of the command, with its exit status.
pub async fn dispatch(cli: Cli) -> Result<(), Failure> {
    // First of all: from now on no signal ends the process without a line in the log.
    let _others = OtherSignals::listen().map_err(|error| Failure::runtime(&error))?;
    match &cli.command {
        Command::Run => run::run(settings(&cli)?, file(&cli).as_deref()).await,
        Command::Check(options) => {
            until_stopped(check::run(settings(&cli)?, file(&cli).as_deref(), options)).await
        }
        Command::Setup(options) => until_stopped(setup::run(settings(&cli)?, options)).await,
        Command::Teardown(options) => until_stopped(teardown::run(settings(&cli)?, options)).await,
        Command::Recover(options) => recover::run(settings(&cli)?, options).await,
        Command::Replay(options) => replay::run(settings(&cli)?, options).await,
        Command::Parked(what) => parked::run(settings(&cli)?, what).await,
        Command::Status(options) => until_stopped(status::run(settings(&cli)?, options)).await,
        Command::Health => until_stopped(health::run(admin_listen(&cli)?)).await,
        Command::Schema(options) => schema::run(options),
    }
}

fn settings(cli: &Cli) -> Result<Settings, Failure> {
    settings::load(file(cli).as_deref()).map_err(|error| Failure::Configuration(error.to_string()))
}

fn admin_listen(cli: &Cli) -> Result<Option<SocketAddr>, Failure> {
    settings::admin_listen(file(cli).as_deref()).map_err(|error| Failure::Configuration(error.to_string()))
}

/// The configuration file. Only the default file may be missing, and only when environment variables hold the configuration.
fn file(cli: &Cli) -> Option<PathBuf> {
    let variable = env::var_os(crate::cli::CONFIG_VARIABLE);
    let file = cli.config_file(variable.clone());
    let named = cli.names_config_file(variable);
    (named || file.exists() || !settings::environment_says_something()).then_some(file)
}

/// The source of the name that `--source` gives, ready for the relay.
fn source(settings: &Settings, name: &str) -> Result<Source, Failure> {
    let Some(source) = settings.sources.get(name) else {
        return Err(unknown(name, settings.sources.keys().map(String::as_str)));
    };
    Ok(source.clone().at(name, &settings.broker))
}

fn unknown<'a>(source: &str, known: impl Iterator<Item = &'a str> + Clone) -> Failure {
    let meant = nearest(source, known.clone()).map(|name| format!("; did you mean {name}?"));
    let known = known.collect::<Vec<_>>().join(", ");
    Failure::CommandLine(format!(
        "--source {source}: the configuration has no such source; it has {known}{}",
        meant.unwrap_or_default()
    ))
}

/// Writes a command's output to stdout, with control characters escaped.
fn answer(text: &str) -> Result<(), Failure> {
    answer_verbatim(&legible::lines(text))
}

/// Writes a script to stdout, with unescaped names. A reader that closes its end (`outboxd status | head -1`) is no
/// failure.
fn answer_verbatim(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Runtime(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
