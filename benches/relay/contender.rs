//! Who is measured: outboxd in its two orderings, and the peers. All are programs that are started, watched and killed alike.

use crate::{stage::Stage, support::Daemon};
use std::time::Duration;

/// A graceful end may take as long as a drain timeout.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A relay, with the settings it is measured in.
pub struct Contender {
    /// What its rows in the tables are called.
    pub name: String,
    daemon: Daemon,
}

impl Contender {
    /// outboxd with an ordering and nothing else but its defaults.
    pub fn outboxd(stage: &Stage, ordering: &str) -> Self {
        Self::outboxd_with(
            &format!("outboxd, {ordering}"),
            &stage.postgres_url(),
            &stage.amqp_url(),
            ordering,
        )
    }

    /// As [`Contender::outboxd`], with connections that lead elsewhere: through a proxy.
    pub fn outboxd_with(name: &str, postgres_url: &str, amqp_url: &str, ordering: &str) -> Self {
        let slot = format!("outboxd_{}", ordering.replace('-', "_"));
        let config = format!(
            "[rabbitmq]\nurl = \"{amqp_url}\"\n\
             [sources.bench]\npostgres.url = \"{postgres_url}\"\npostgres.slot = \"{slot}\"\n\
             postgres.publication = \"{slot}\"\ndelivery.ordering = \"{ordering}\"\n"
        );
        Self { name: name.to_owned(), daemon: Daemon::prepare(&config) }
    }

    /// Has it create its slot, before there are rows.
    pub async fn prepare(&self) {
        let output = self.daemon.command(&["setup"]).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} cannot be set up: {said}", self.name);
    }

    /// Starts it, without waiting for anything.
    pub fn start(&mut self) {
        self.daemon.start_again();
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Asks it to end, and waits.
    pub async fn stop(&mut self) {
        let status = self.daemon.sigterm(STOP_LIMIT).await;
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    /// Kills it.
    pub async fn kill9(&mut self) {
        self.daemon.kill9().await;
    }
}
