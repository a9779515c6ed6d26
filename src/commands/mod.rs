//! One file for each command, and what they share: reading the settings, answering on stdout, failing.
//!
//! A command returns its [`Failure`]; only the binary prints it and exits.

mod check;
mod checklist;
mod recover;
mod replay;
mod run;
mod schema;
mod setup;
mod slots;
mod status;
mod stop;
mod table;
mod teardown;

use crate::{
    cli::{Cli, Command},
    outbox::nearest,
    relay::Source,
    settings::{self, Settings},
};
use std::{
    env,
    error::Error,
    fmt,
    io::{self, Write},
};

/// Why a command did not do what it was asked to. The text is complete: what happened, where, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An argument is wrong that only the configuration shows to be so.
    CommandLine(String),
    /// The configuration is wrong; starting again without changing it is of no use.
    Configuration(String),
    /// Something outside is; trying again may help.
    Runtime(String),
}

impl Failure {
    /// A failure at run time, with everything that caused it: `what: cause: cause of the cause`.
    pub fn runtime(error: &dyn Error) -> Failure {
        Failure::Runtime(chain(error))
    }

    /// A failure of the configuration, likewise.
    pub fn configuration(error: &dyn Error) -> Failure {
        Failure::Configuration(chain(error))
    }

    /// The exit status: 78 is `EX_CONFIG` of sysexits.h, and the unit file tells systemd not to restart on it.
    pub fn exit_status(&self) -> u8 {
        match self {
            Failure::Runtime(_) => 1,
            Failure::CommandLine(_) => 2,
            Failure::Configuration(_) => 78,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::CommandLine(text) | Failure::Configuration(text) | Failure::Runtime(text)) = self;
        f.write_str(text)
    }
}

impl Error for Failure {}

/// Does what the command line asks for.
pub async fn dispatch(cli: Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Run => run::run(settings(&cli)?).await,
        Command::Check(options) => check::run(settings(&cli)?, options).await,
        Command::Setup(options) => setup::run(settings(&cli)?, options).await,
        Command::Teardown(options) => teardown::run(settings(&cli)?, options).await,
        Command::Recover(options) => recover::run(settings(&cli)?, options).await,
        Command::Replay(options) => replay::run(settings(&cli)?, options).await,
        Command::Status(options) => status::run(settings(&cli)?, options).await,
        Command::Schema(options) => schema::run(options),
    }
}

fn settings(cli: &Cli) -> Result<Settings, Failure> {
    let file = cli.config_file(env::var_os(crate::cli::CONFIG_VARIABLE));
    settings::load(&file).map_err(|error| Failure::Configuration(error.to_string()))
}

/// The source that `--source` names, ready for the relay.
fn source(settings: &Settings, name: &str) -> Result<Source, Failure> {
    let Some(source) = settings.sources.get(name) else {
        return Err(unknown(name, settings.sources.keys().map(String::as_str)));
    };
    let settings::Source { database, mapping, relay } = source.clone();
    Ok(Source { name: name.to_owned(), database, mapping, broker: settings.broker.clone(), relay })
}

fn unknown<'a>(source: &str, known: impl Iterator<Item = &'a str> + Clone) -> Failure {
    let meant = nearest(source, known.clone()).map(|name| format!("; did you mean {name}?"));
    let known = known.collect::<Vec<_>>().join(", ");
    Failure::CommandLine(format!(
        "--source {source}: there is no such source in the configuration, which has {known}{}",
        meant.unwrap_or_default()
    ))
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

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot connect to 127.0.0.1:5432")]
    struct Connect(#[source] io::Error);

    #[test]
    fn a_failure_tells_the_whole_chain() {
        let error = Connect(io::Error::other("refused"));
        let failure = Failure::runtime(&error);
        assert_eq!(failure.to_string(), "cannot connect to 127.0.0.1:5432: refused");
        assert_eq!(failure.exit_status(), 1);
        assert_eq!(Failure::configuration(&error).exit_status(), 78);
    }
}
