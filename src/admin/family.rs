//! Families of metrics: their registration, and the range of a gauge.

use prometheus::{Registry, core::Collector};

/// Registers a family. Names, labels and buckets are constants, so only our own mistake makes the registration fail.
#[expect(clippy::expect_used, reason = "fails on our own mistakes only, and then in every test")]
pub(super) fn added<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    let collector = collector.expect("the family's description is valid");
    registry.register(Box::new(collector.clone())).expect("the family's name is used once");
    collector
}

/// Converts a count to a gauge's signed value.
pub(super) fn saturated(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
