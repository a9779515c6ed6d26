//! One source: everything that relaying it needs, and the result at its end.

use super::RelayOptions;
use crate::{message::Mapping, postgres::SourceDatabase};
use amqp_publisher::PublisherOptions;

/// Everything that relaying one source needs. Rows come from a [`Database`](super::database::Database), messages go to a
/// [`Broker`](super::broker::Broker).
#[derive(Clone, Debug)]
pub struct Source<D = SourceDatabase, B = PublisherOptions> {
    /// Name of the source in the configuration.
    pub name: String,
    /// The database that rows come from.
    pub database: D,
    /// The mapping of rows to messages.
    pub mapping: Mapping,
    /// The broker that messages go to.
    pub broker: B,
    /// The options of the relay.
    pub relay: RelayOptions,
}

impl<D, B> Source<D, B> {
    /// Name of the relay's connections, shown in `pg_stat_activity` and in RabbitMQ's management.
    pub(super) fn application_name(&self) -> String {
        format!("outboxd {}", self.name)
    }
}

/// Result of a source after a requested shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No message is left in flight, or another instance has taken over the slot and the rest.
    Drained,
    /// The drain timeout passed first, or a lost connection was not made again. The next holder of the slot publishes unconfirmed
    /// messages again.
    Undrained,
}
