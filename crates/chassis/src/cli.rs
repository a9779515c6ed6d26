//! Command line common to all services, and the exit status.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    alive, inbox,
    settings::{self, Program, Readable, Settings},
};
use process::{
    failure::Failure,
    shutdown::OtherSignals,
    telemetry::{self, LogFormat},
};
use secret::core_dumps;

/// End of each service's `--help`.
pub const HELP: &str = "\
Environment (each variable overrides the same key of the file; instead of KEY, KEY_FILE may name a file with the value):
  DATABASE_URL              postgresql://user:password@host:5432/database
  AMQP_URL                  amqp://user:password@host:5672/%2f
  LISTEN                    host:port of the HTTP endpoints
  AMQP_URLS                 instead of AMQP_URL: several brokers, separated by commas, tried in turn
  AMQP_USERNAME, AMQP_PASSWORD, AMQP_TLS_CA_FILE, AMQP_TLS_CERT_FILE, AMQP_TLS_KEY_FILE
  AMQP_DECLARE              false: verify exchanges and queues instead of declaring them
  AMQP_PREFETCH             unacknowledged messages at most: the one in hand, and those sent ahead of it
  INBOX_RETENTION_S         how old rows of the table inbox get; 0 keeps them all
  DATABASE_CONNECTIONS_MAX  connections to the database
  DRAIN_TIMEOUT_S           how long requests and messages under way may take after SIGTERM
  OUTBOXD_LOG               log levels, for instance warn,chassis=debug

Signals: SIGTERM, SIGINT and SIGQUIT drain and end; a second one ends at once; any other is logged and ignored

HTTP, beside the service's own paths: /healthz, /readyz, /metrics (Prometheus), /openapi.json, /asyncapi.json

Exit status: 0 ended in good order; 1 failed at run time; 2 bad command line; 78 bad configuration";

/// Options of all services.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Options {
    /// Configuration file; without it, the environment must hold every required key
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Format of logs on stderr
    #[arg(long, global = true, value_name = "FORMAT", default_value = "pretty")]
    pub log_format: LogFormat,
}

/// Commands of all services besides serving.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Put dead letters back into the queue
    ///
    /// Moves the messages of each QUEUE.dead to the end of QUEUE, oldest first, whoever put them there: RabbitMQ,
    /// when their deliveries exceeded the queue's delivery limit, or the service, when it could not handle them. A
    /// message that fails again returns with its new reason. The service may be running.
    Redrive(Redrive),

    /// Commands of all programs.
    #[command(flatten)]
    OfEveryProgram(CommonCommand),
}

/// Commands of all programs, also of those without a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum CommonCommand {
    /// Tell whether the service is alive, for a container's health check
    ///
    /// Asks /healthz at the address of LISTEN, and exits with 0 when the service answers within five seconds, else with 1. Reads no
    /// other key, and not even the file where the variable LISTEN gives the address.
    Health,
}

impl CommonCommand {
    /// Runs the command, and reports how it ended.
    pub fn start(self, program: Program, options: &Options) -> ExitCode {
        let CommonCommand::Health = self;
        let asked = settings::listen(program, options.config.as_deref())
            .map_err(|error| Failure::Configuration(error.to_string()))
            .and_then(alive::ask);
        let Err(failure) = asked else { return ExitCode::SUCCESS };
        // A closed stderr cannot be reported; the exit status still tells.
        let _ = writeln!(std::io::stderr(), "{}: {failure}", program.name);
        ExitCode::from(failure.exit_status())
    }
}

/// Options of `redrive`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Redrive {
    /// Most messages of each queue
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: u32,

    /// Only this queue of the service
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
}

impl Redrive {
    /// Moves the dead letters of a service that consumes `queues`, and prints the result.
    ///
    /// # Errors
    ///
    /// [`Failure`] when the service does not consume the queue, the broker fails, or stdout cannot be written.
    pub async fn run(self, settings: Settings, queues: &[&str]) -> Result<(), Failure> {
        let wanted: Vec<&str> = queues
            .iter()
            .copied()
            .filter(|&queue| self.queue.as_deref().is_none_or(|only| only == queue))
            .collect();
        if wanted.is_empty() {
            return Err(Failure::CommandLine(format!(
                "--queue: {} consumes {}",
                settings.base.name,
                queues.join(", ")
            )));
        }
        for redriven in inbox::redrive(&settings, &wanted, self.limit).await? {
            let inbox::Redriven { queue, moved, left } = redriven;
            writeln!(std::io::stdout(), "{queue}: {moved} messages put back; {left} left in {queue}.dead")
                .map_err(|error| Failure::Runtime(format!("cannot write to stdout: {error}")))?;
        }
        Ok(())
    }
}

/// Sets up the logs, reads the settings of the program, runs it, and reports how it ended.
pub fn start<S, F>(program: Program, options: Options, run: impl FnOnce(S) -> F) -> ExitCode
where
    S: Readable,
    F: Future<Output = Result<(), Failure>>,
{
    core_dumps::forbid();
    let ended = telemetry::init(options.log_format)
        .map_err(|error| Failure::configuration(&error))
        .and_then(|()| {
            settings::load(program, options.config.as_deref())
                .map_err(|error| Failure::Configuration(error.to_string()))
        })
        .and_then(|settings| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| Failure::runtime(&error))?.block_on(async {
                let _others = OtherSignals::listen().map_err(|error| Failure::runtime(&error))?;
                run(settings).await
            })
        });
    let name = program.name;
    // A closed stderr cannot be reported; the exit status still tells.
    telemetry::finish(ended.as_ref().err().map(|failure| format!("{name}: {failure}")).as_deref());
    ended.err().map_or(ExitCode::SUCCESS, |failure| ExitCode::from(failure.exit_status()))
}
