//! One source: everything that relaying it needs, and how that ends.

use super::RelayOptions;
use crate::{message::Mapping, postgres::SourceDatabase};
use amqp_publisher::PublisherOptions;

/// Everything one source needs. Its rows come from a [`Database`](super::database::Database), its messages go to a
/// [`Broker`](super::broker::Broker).
#[derive(Clone, Debug)]
pub struct Source<D = SourceDatabase, B = PublisherOptions> {
    /// Its name in the configuration.
    pub name: String,
    /// Where rows come from.
    pub database: D,
    /// How they become messages.
    pub mapping: Mapping,
    /// Where messages go.
    pub broker: B,
    /// How they get there.
    pub relay: RelayOptions,
}

impl<D, B> Source<D, B> {
    /// Name of the relay's connections, shown in `pg_stat_activity` and in RabbitMQ's management.
    pub(super) fn application_name(&self) -> String {
        format!("outboxd {}", self.name)
    }
}

/// How a source ended after it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is left in flight, or another instance has had the slot since, and with it whatever was.
    Drained,
    /// The drain timeout passed first, or a connection was lost and not made anew: what was unconfirmed will be published
    /// again, by whoever has the slot next.
    Undrained,
}
