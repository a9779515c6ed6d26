//! What the relay reports and what the world reads: `/metrics`, `/healthz`, `/readyz` and `/status`.
//!
//! The [`Board`] is the world's side, one for the process. A [`Reporter`] is the relay's side, one for each source; its
//! clones all write to the same place. Reporting never waits for a reader and never fails.
//!
//! Knows how to show what it was told. Does not know PostgreSQL, RabbitMQ or the ledger, asks nobody for anything, and
//! decides nothing: that a stalled source is not ready is the relay's verdict, given as a [`SourceState`].

mod ages;
mod family;
mod metrics;
mod reporter;
mod server;
mod state;
mod status;
mod subscriptions;

pub use reporter::{Reporter, Side, Unconfirmed};
pub use server::{AdminError, bind, serve};
pub use state::SourceState;
pub use status::{Readiness, Reconnects, SourceStatus, Status};
pub use subscriptions::{SubscriptionReporter, SubscriptionStatus};

use metrics::Metrics;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

/// Everything that is reported in this process, for the endpoints to read. Clones share it.
#[derive(Clone, Debug)]
pub struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    metrics: Metrics,
    /// By name, so that every answer lists the sources in the same order.
    sources: Mutex<BTreeMap<String, Reporter>>,
    subscriptions: SubscriptionReporter,
}

impl Board {
    /// A board without sources; the process counts as started now.
    #[expect(clippy::new_without_default, reason = "reads the clock: two defaults would not be equal")]
    pub fn new() -> Board {
        let metrics = Metrics::new(SystemTime::now());
        let subscriptions = metrics.subscriptions();
        Board(Arc::new(Inner { started: Instant::now(), metrics, sources: Mutex::default(), subscriptions }))
    }

    /// The reporter of the source `name`, which the endpoints show from now on, as [`SourceState::Connecting`].
    /// Asked again for the same name, it returns the same reporter.
    pub fn reporter(&self, name: &str) -> Reporter {
        let mut sources = self.sources();
        let reporter = sources
            .entry(name.to_owned())
            .or_insert_with(|| Reporter::new(name, self.0.metrics.source(name)));
        reporter.clone()
    }

    /// The reporter of the subscriptions' queues.
    pub fn subscriptions(&self) -> SubscriptionReporter {
        self.0.subscriptions.clone()
    }

    /// The Prometheus text format, version 0.0.4.
    pub fn metrics(&self) -> String {
        self.sources().values().for_each(Reporter::set_ages);
        self.0.metrics.render()
    }

    /// Readiness: every source is streaming or standing by, and every subscription has its queues. Names those that are not ready.
    pub fn readiness(&self) -> Readiness {
        Readiness::of(&self.status())
    }

    /// Everything at once, sources by name.
    pub fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.0.started.elapsed().as_secs(),
            sources: self.sources().values().map(Reporter::status).collect(),
            subscriptions: self.0.subscriptions.status(),
        }
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<String, Reporter>> {
        self.0.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
