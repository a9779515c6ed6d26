//! Gauges that are set at each request for `/metrics`: ages, which change by themselves, and the slot's `wal_status`.
//!
//! A gauge without a known value is absent.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

use super::family::{added, saturated};

/// Values of `pg_replication_slots.wal_status`; `unknown` stands for NULL.
const WAL_STATUSES: [&str; 5] = ["reserved", "extended", "unreserved", "lost", "unknown"];

/// Families of these gauges.
#[derive(Clone, Debug)]
pub(super) struct Ages {
    lag: GaugeVec,
    oldest_unconfirmed: GaugeVec,
    last_confirm: IntGaugeVec,
    wal_status: IntGaugeVec,
}

/// The gauges of one source.
#[derive(Debug)]
pub(super) struct SourceAges {
    families: Ages,
    source: String,
}

impl Ages {
    pub(super) fn new(registry: &Registry) -> Self {
        let seconds =
            |name: &str, help: &str| added(registry, GaugeVec::new(Opts::new(name, help), &["source"]));
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            added(registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        Self {
            lag: seconds(
                "outboxd_lag_seconds",
                "Seconds since the commit of the oldest unconfirmed message, or of the row that halts the source; 0 while the source streams \
                 with nothing unconfirmed; absent when nothing is unconfirmed and the source does not stream: alert on outboxd_source_state, too",
            ),
            oldest_unconfirmed: seconds(
                "outboxd_oldest_unconfirmed_seconds",
                "Seconds since the oldest unconfirmed message was published; absent while there is none, also during an outage of RabbitMQ \
                 with nothing published",
            ),
            last_confirm: gauge(
                "outboxd_last_confirm_timestamp_seconds",
                "Time of the last confirm, in seconds since the Unix epoch; absent before the first",
                &["source"],
            ),
            wal_status: gauge(
                "outboxd_slot_wal_status",
                "1 for the wal_status of the replication slot, 0 for the others; lost: rows may be missing, run outboxd recover",
                &["source", "wal_status"],
            ),
        }
    }

    pub(super) fn source(&self, name: &str) -> SourceAges {
        SourceAges { families: self.clone(), source: name.to_owned() }
    }
}

impl SourceAges {
    pub(super) fn set(
        &self,
        lag: Option<f64>,
        oldest_unconfirmed: Option<f64>,
        last_confirm: Option<SystemTime>,
        wal_status: Option<&str>,
    ) {
        let label = &[self.source.as_str()];
        let Ages { lag: lags, oldest_unconfirmed: unconfirmed, last_confirm: confirms, wal_status: statuses } =
            &self.families;
        for (family, seconds) in [(lags, lag), (unconfirmed, oldest_unconfirmed)] {
            match seconds {
                Some(seconds) => family.with_label_values(label).set(seconds),
                // An error means that the gauge was absent already.
                None => drop(family.remove_label_values(label)),
            }
        }
        if let Some(at) = last_confirm {
            let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            confirms.with_label_values(label).set(saturated(since_epoch.as_secs()));
        }
        if let Some(now) = wal_status {
            for status in WAL_STATUSES {
                statuses.with_label_values(&[self.source.as_str(), status]).set(i64::from(status == now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use crate::admin::{Board, SourceState};

    #[test]
    fn what_passes_by_itself_is_there_once_it_is_known() {
        let board = Board::new();
        let orders = board.reporter("orders");
        let has = |series: &str| board.metrics().lines().any(|line| line.starts_with(series));
        for absent in ["outboxd_lag_seconds{", "outboxd_last_confirm", "outboxd_slot_wal_status{"] {
            assert!(!has(absent), "{absent}");
        }
        orders.state(SourceState::Streaming, "");
        orders.confirmed(1);
        orders.slot(Some(1), "extended");
        for there in [
            "outboxd_lag_seconds{source=\"orders\"} 0",
            "outboxd_last_confirm_timestamp_seconds{source=\"orders\"} 1",
            "outboxd_slot_wal_status{source=\"orders\",wal_status=\"extended\"} 1",
            "outboxd_slot_wal_status{source=\"orders\",wal_status=\"lost\"} 0",
        ] {
            assert!(has(there), "{there}: {}", board.metrics());
        }
        // Halted for a row: nothing is in flight, and the lag grows.
        orders.state(SourceState::Halted, "a row cannot become a message");
        assert!(!has("outboxd_lag_seconds{"));
        orders.stuck_at("2026-01-31T12:00:00Z".parse().expect("a time"));
        assert!(has("outboxd_lag_seconds{source=\"orders\"} "));
        assert!(has("outboxd_oldest_unconfirmed_seconds{source=\"orders\"} "));
    }
}
