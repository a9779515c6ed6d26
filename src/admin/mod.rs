//! The admin endpoints: `/metrics`, `/healthz`, `/readyz` and `/status`, and the reports of the relay behind them.
//!
//! The endpoints read from the [`Board`], one for the process. The relay writes to a [`Reporter`], one for each source; clones share
//! their state. Reporting never waits for a reader and never fails.
//!
//! Knows how to show what was reported. Does not know PostgreSQL, RabbitMQ or the ledger, and decides nothing: the relay decides
//! whether a source is ready, and reports a [`SourceState`].

mod ages;
mod family;
mod metrics;
mod reporter;
mod server;
mod state;
mod status;
mod subscriptions;
mod summary;

pub use reporter::{Reporter, Side, Unconfirmed};
pub use server::{AdminError, bind, serve};
pub use state::SourceState;
pub use status::{Readiness, Reconnects, SourceStatus, Status};
pub use subscriptions::{SubscriptionReporter, SubscriptionStatus};

use metrics::Metrics;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// All reports of this process, read by the endpoints. Clones share their state.
#[derive(Clone, Debug)]
pub struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    metrics: Metrics,
    /// Reporters by name: every answer lists the sources in the same order.
    sources: Mutex<BTreeMap<String, Reporter>>,
    subscriptions: SubscriptionReporter,
}

impl Board {
    /// Makes a board without sources, with now as the start of the process.
    #[expect(clippy::new_without_default, reason = "reads the clock: two defaults would not be equal")]
    pub fn new() -> Board {
        let metrics = Metrics::new(SystemTime::now());
        let subscriptions = metrics.subscriptions();
        Board(Arc::new(Inner { started: Instant::now(), metrics, sources: Mutex::default(), subscriptions }))
    }

    /// Returns the reporter of the source `name`, always the same one. The endpoints show a new source as
    /// [`SourceState::Connecting`].
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

    /// All metrics in the Prometheus text format, version 0.0.4.
    pub fn metrics(&self) -> String {
        self.sources().values().for_each(Reporter::set_ages);
        self.0.metrics.render()
    }

    /// Readiness: every source is streaming or standing by, and every subscription has its queues.
    pub fn readiness(&self) -> Readiness {
        Readiness::of(&self.status())
    }

    /// The `/status` document, with the sources sorted by name.
    pub fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.0.started.elapsed().as_secs(),
            sources: self.sources().values().map(Reporter::status).collect(),
            subscriptions: self.0.subscriptions.status(),
        }
    }

    /// The states of all sources in one short line.
    pub fn summary(&self) -> String {
        summary::of(&self.status())
    }

    /// Names of the sources whose loop has not turned for longer than `limit`, with the time since its last turn.
    pub fn hanging(&self, limit: Duration) -> Vec<(String, Duration)> {
        let sources = self.sources();
        let ages =
            sources.values().filter_map(|source| Some((source.name().to_owned(), source.heartbeat().age()?)));
        ages.filter(|(_, age)| *age > limit).collect()
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<String, Reporter>> {
        self.0.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
