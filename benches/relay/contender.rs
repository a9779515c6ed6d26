//! Who is measured: outboxd in its two orderings, and the peers. All are programs that are started, watched and killed alike.

use crate::{
    peer::Peer,
    stage::{OUTBOX, Stage},
};
use std::time::Duration;
use testkit::{Daemon, http};

/// A graceful end may take as long as a drain timeout.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A relay, with the settings it is measured in.
pub struct Contender {
    /// What its rows in the tables are called.
    pub name: String,
    program: Program,
}

enum Program {
    Outboxd(Daemon),
    Peer(Peer),
}

impl Contender {
    /// outboxd with an ordering and nothing else but its defaults.
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

    /// outboxd with a configuration, all but `[admin]`.
    pub fn configured(name: &str, config: &str) -> Self {
        Self { name: name.to_owned(), program: Program::Outboxd(Daemon::prepare(config)) }
    }

    /// A peer that could be fetched.
    pub fn peer(peer: Peer) -> Self {
        Self { name: peer.name().to_owned(), program: Program::Peer(peer) }
    }

    /// The table that its service writes to.
    pub fn table(&self) -> &'static str {
        match &self.program {
            Program::Outboxd(_) => OUTBOX,
            Program::Peer(peer) => peer.table(),
        }
    }

    /// How many of a backlog's rows it is given.
    pub fn rows_of(&self, backlog: u32) -> u32 {
        match &self.program {
            Program::Outboxd(_) => backlog,
            Program::Peer(peer) => backlog.min(peer.rows_max()),
        }
    }

    /// Has it create its slot, before there are rows.
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

    /// Starts it, without waiting for anything.
    pub fn start(&mut self) {
        match &mut self.program {
            Program::Outboxd(daemon) => daemon.start_again(),
            Program::Peer(peer) => peer.start(),
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        match &self.program {
            Program::Outboxd(daemon) => daemon.pid(),
            Program::Peer(peer) => peer.pid(),
        }
    }

    /// Messages that outboxd says are confirmed, of all its sources; 0 while it does not answer yet.
    pub async fn confirmed(&self) -> f64 {
        let Program::Outboxd(daemon) = &self.program else { return 0.0 };
        let Ok((_, metrics)) = http::get(daemon.port(), "/metrics").await else { return 0.0 };
        let series =
            metrics.lines().filter_map(|line| line.strip_prefix("outboxd_messages_confirmed_total{"));
        series.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Asks it to end, and waits.
    pub async fn stop(&mut self) {
        match &mut self.program {
            Program::Outboxd(daemon) => {
                let status = daemon.sigterm(STOP_LIMIT).await;
                assert!(status.success(), "{} ended with {status}", self.name);
            }
            Program::Peer(peer) => peer.stop(STOP_LIMIT).await,
        }
    }

    /// Kills it.
    pub async fn kill9(&mut self) {
        match &mut self.program {
            Program::Outboxd(daemon) => daemon.kill9().await,
            Program::Peer(peer) => peer.kill9().await,
        }
    }

    /// The end of what it has printed, for the message of a failure.
    pub fn log_tail(&self) -> String {
        let log = match &self.program {
            Program::Outboxd(daemon) => daemon.log(),
            Program::Peer(peer) => peer.log(),
        };
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}
