//! What the demo plays on: two private nodes, and the daemon between them with a configuration file and log to keep.

use super::show::{
    Outcome, ensure,
    files::{executable, keep, kept, short},
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use testkit::{Daemon, Postgres, PostgresOptions, RabbitMq, RabbitMqOptions};

const CONFIG: &str = include_str!("outboxd.toml");
/// The database of the service that takes orders.
const DATABASE: &str = "orders";

/// Everything that runs. Dropped in this order: the daemon ends before its nodes do.
pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
    pub(crate) postgres: Postgres,
    pub(crate) rabbitmq: RabbitMq,
    /// How long each node took to start.
    pub(crate) took: [Duration; 2],
}

impl Stage {
    /// Starts both nodes at the same time, and prepares the daemon without starting it.
    pub(crate) async fn set_up() -> Outcome<Self> {
        let executable = executable("outboxd");
        ensure(executable.exists(), || {
            format!("{} is not there; `make demo-relay` builds it first", short(&executable))
        })?;
        let (postgres, rabbitmq) = tokio::join!(
            timed(Postgres::start(PostgresOptions::default())),
            timed(RabbitMq::start(RabbitMqOptions::default())),
        );
        let ((postgres, postgres_took), (rabbitmq, rabbitmq_took)) = (postgres, rabbitmq);
        let url = postgres.create_database(DATABASE).await;
        let config = CONFIG.replace("{postgres}", &url).replace("{rabbitmq}", &rabbitmq.url("/"));
        let daemon = Daemon::prepare(&config);
        keep(&daemon.config_file(), "outboxd.toml")?;
        keep(&daemon.config_file().with_file_name("log"), "outboxd.log")?;
        Ok(Self { daemon, postgres, rabbitmq, took: [postgres_took, rabbitmq_took] })
    }

    /// A connection to the service's database.
    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        self.postgres.client(DATABASE).await
    }

    /// What a command of the daemon prints.
    pub(crate) async fn outboxd(&self, arguments: &[&str]) -> Outcome<String> {
        let output = self.daemon.command(arguments).await;
        ensure(output.status.success(), || {
            format!(
                "`outboxd {}` ended with {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How to ask `psql` for a session.
    pub(crate) fn psql(&self) -> String {
        format!("psql -h 127.0.0.1 -p {} -U postgres {DATABASE}", self.postgres.port())
    }

    /// The address of the daemon's admin endpoints.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.daemon.admin_port())
    }
}

/// The daemon's configuration file, kept after the end.
pub(crate) fn config_file() -> PathBuf {
    kept("outboxd.toml")
}

/// The daemon's log, kept after the end.
pub(crate) fn log_file() -> PathBuf {
    kept("outboxd.log")
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    (work.await, start.elapsed())
}
