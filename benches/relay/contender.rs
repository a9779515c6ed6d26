//! Who is measured: outboxd in its two orderings, and the peers. All are programs that are started, watched and killed alike.

use crate::{
    peer::Peer,
    stage::{OUTBOX, Stage},
    support::Daemon,
};
use std::time::Duration;

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
        let name = format!("outboxd, {ordering}");
        Self::outboxd_with(&name, &stage.postgres_url(), &stage.amqp_url(), ordering, "")
    }

    /// As [`Contender::outboxd`], with connections that may lead elsewhere, and further lines of `[sources.bench]`.
    pub fn outboxd_with(
        name: &str,
        postgres_url: &str,
        amqp_url: &str,
        ordering: &str,
        source: &str,
    ) -> Self {
        let slot = format!("outboxd_{}", ordering.replace('-', "_"));
        let config = format!(
            "[rabbitmq]\nurl = \"{amqp_url}\"\n\
             [sources.bench]\npostgres.url = \"{postgres_url}\"\npostgres.slot = \"{slot}\"\n\
             postgres.publication = \"{slot}\"\ndelivery.ordering = \"{ordering}\"\n{source}\n"
        );
        Self { name: name.to_owned(), program: Program::Outboxd(Daemon::prepare(&config)) }
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

    /// Has it create its slot, before there are rows.
    pub async fn prepare(&self) {
        let output = match &self.program {
            Program::Outboxd(daemon) => daemon.command(&["setup"]).await,
            Program::Peer(peer) => peer.prepare().await,
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} cannot be set up: {said}", self.name);
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
