//! Families of metrics: how one is registered, and the values that a gauge can have.

use prometheus::{Registry, core::Collector};

/// Registers a family. Names, labels and buckets are constants of this room, so a failure is a mistake in it.
#[expect(clippy::expect_used, reason = "fails on our own mistakes only, and then in every test")]
pub(super) fn added<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    let collector = collector.expect("the family's description is valid");
    registry.register(Box::new(collector.clone())).expect("the family's name is used once");
    collector
}

/// Gauges are signed; no count of ours comes near.
pub(super) fn saturated(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
