//! Contenders: outboxd in its two orderings, and the peers. All are programs that are started, watched and killed
//! alike.

use crate::{
    peer::Peer,
    stage::{OUTBOX, Stage},
};
use std::time::Duration;
use testkit::{Daemon, http};

/// Limit of a graceful end: a drain timeout.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Relay with its settings.
pub struct Contender {
    /// Name in the tables.
    pub name: String,
    program: Program,
}

enum Program {
    Outboxd(Daemon),
    Peer(Peer),
}

impl Contender {
    /// Returns outboxd with an ordering and defaults otherwise.
    pub fn outboxd(stage: &Stage, ordering: &str) -> Self {
        let slot = format!("outboxd_{}", ordering.replace('-', "_"));
        let config = format!(
            "[rabbitmq]\nurl = \"{}\"\n[sources.bench]\npostgres.url = \"{}\"\npostgres.slot = \"{slot}\"\n\
             postgres.publication = \"{slot}\"\ndelivery.ordering = \"{ordering}\"\n",
            stage.amqp_url(),
            stage.postgres_url()
        );
        Self::configured(&format!("outboxd, {ordering}"), &config)
    }

    /// Returns outboxd with a configuration, without `[admin]`.
    pub fn configured(name: &str, config: &str) -> Self {
        Self { name: name.to_owned(), program: Program::Outboxd(Daemon::prepare(config)) }
    }

    /// Returns a fetched peer.
    pub fn peer(peer: Peer) -> Self {
        Self { name: peer.name().to_owned(), program: Program::Peer(peer) }
    }

    /// Returns the table that its service writes to.
    pub fn table(&self) -> &'static str {
        match &self.program {
            Program::Outboxd(_) => OUTBOX,
            Program::Peer(peer) => peer.table(),
        }
    }

    /// Returns how many of a backlog's rows the contender gets.
    pub fn rows_of(&self, backlog: u32) -> u32 {
        match &self.program {
            Program::Outboxd(_) => backlog,
            Program::Peer(peer) => backlog.min(peer.rows_max()),
        }
    }

    /// Creates the contender's slot, before the rows exist.
    ///
    /// # Errors
    ///
    /// The contender's output when the set-up fails.
    pub async fn prepare(&self) -> Result<(), String> {
        let output = match &self.program {
            Program::Outboxd(daemon) => daemon.command(&["setup"]).await,
            Program::Peer(peer) => peer.prepare().await,
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{} cannot be set up: {}", self.name, said.trim()))
    }

    /// Starts the contender without waiting.
    pub fn start(&mut self) {
        match &mut self.program {
            Program::Outboxd(daemon) => daemon.start_again(),
            Program::Peer(peer) => peer.start(),
        }
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        match &self.program {
            Program::Outboxd(daemon) => daemon.pid(),
            Program::Peer(peer) => peer.pid(),
        }
    }

    /// Returns the messages that outboxd reports as confirmed, of all sources; 0 while it does not answer.
    pub async fn confirmed(&self) -> f64 {
        let Program::Outboxd(daemon) = &self.program else { return 0.0 };
        let Ok((_, metrics)) = http::get(daemon.port(), "/metrics").await else { return 0.0 };
        let series =
            metrics.lines().filter_map(|line| line.strip_prefix("outboxd_messages_confirmed_total{"));
        series.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Stops the contender in order.
    pub async fn stop(&mut self) {
        match &mut self.program {
            Program::Outboxd(daemon) => {
                let status = daemon.sigterm(STOP_LIMIT).await;
                assert!(status.success(), "{} ended with {status}", self.name);
            }
            Program::Peer(peer) => peer.stop(STOP_LIMIT).await,
        }
    }

    /// Kills the contender.
    pub async fn kill9(&mut self) {
        match &mut self.program {
            Program::Outboxd(daemon) => daemon.kill9().await,
            Program::Peer(peer) => peer.kill9().await,
        }
    }

    /// Returns the end of its output, for the message of a failure.
    pub fn log_tail(&self) -> String {
        let log = match &self.program {
            Program::Outboxd(daemon) => daemon.log(),
            Program::Peer(peer) => peer.log(),
        };
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}
