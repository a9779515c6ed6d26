//! The Prometheus metrics: all families, and for each source the handles that the relay increments.
//!
//! Label values are looked up when a source is added, never for a message. A gauge without a known value (lag, retained WAL) is
//! absent instead of 0: an unknown lag must not look like no lag.

use super::{
    ages::{Ages, SourceAges},
    family::{added, saturated},
    state::SourceState,
    subscriptions::SubscriptionReporter,
};
use process::telemetry;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::time::{SystemTime, UNIX_EPOCH};

/// Buckets in seconds: milliseconds for the usual case, minutes for an outage of the broker.
const COMMIT_TO_CONFIRM_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// All families, in their own registry, apart from metrics that other code registers globally.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    published: IntCounterVec,
    confirmed: IntCounterVec,
    returned: IntCounterVec,
    nacked: IntCounterVec,
    nacked_waiting: IntGaugeVec,
    nacked_since: IntGaugeVec,
    parked: IntCounterVec,
    parked_rows: IntGaugeVec,
    ignored: IntCounterVec,
    deleted: IntCounterVec,
    cleanup_off: IntGaugeVec,
    commit_to_confirm: HistogramVec,
    in_flight: IntGaugeVec,
    slot_retained: IntGaugeVec,
    lag: IntGaugeVec,
    ages: Ages,
    reconnects: IntCounterVec,
    state: IntGaugeVec,
}

/// The handles of one source.
#[derive(Debug)]
pub(super) struct SourceMetrics {
    pub(super) published: IntCounter,
    pub(super) confirmed: IntCounter,
    pub(super) returned: IntCounter,
    pub(super) nacked: IntCounter,
    pub(super) nacked_waiting: IntGauge,
    pub(super) nacked_since: KnownLater,
    pub(super) parked: IntCounter,
    pub(super) parked_rows: KnownLater,
    pub(super) ignored: IntCounter,
    pub(super) deleted: IntCounter,
    pub(super) cleanup_off: IntGauge,
    pub(super) commit_to_confirm: Histogram,
    pub(super) in_flight: IntGauge,
    pub(super) slot_retained: KnownLater,
    pub(super) lag: KnownLater,
    pub(super) ages: SourceAges,
    pub(super) reconnects_postgres: IntCounter,
    pub(super) reconnects_rabbitmq: IntCounter,
    states: [(SourceState, IntGauge); SourceState::ALL.len()],
}

impl Metrics {
    pub(super) fn new(started: SystemTime) -> Metrics {
        let registry = Registry::new();
        let counter =
            |name: &str, help: &str| added(&registry, IntCounterVec::new(Opts::new(name, help), &["source"]));
        let gauge =
            |name: &str, help: &str| added(&registry, IntGaugeVec::new(Opts::new(name, help), &["source"]));
        let metrics = Metrics {
            published: counter(
                "outboxd_messages_published_total",
                "Messages sent to the broker, repeats included",
            ),
            confirmed: counter("outboxd_messages_confirmed_total", "Messages that the broker confirmed"),
            returned: counter(
                "outboxd_messages_returned_total",
                "Messages that the broker returned as unroutable",
            ),
            nacked: counter(
                "outboxd_messages_nacked_total",
                "Messages that the broker nacked; outboxd sends them again, or parks their rows",
            ),
            nacked_waiting: gauge(
                "outboxd_nacked_messages",
                "Messages that wait to be sent again after a nack",
            ),
            nacked_since: gauge(
                "outboxd_nacked_since_timestamp_seconds",
                "Time since which messages wait after a nack, in seconds since the Unix epoch; absent while none does",
            ),
            parked: counter("outboxd_messages_parked_total", "Messages whose rows were parked in the table outboxd_parked"),
            parked_rows: gauge("outboxd_parked_rows", "Rows in the table outboxd_parked"),
            ignored: counter(
                "outboxd_rows_ignored_total",
                "Changes of the outbox table that are not published: updates, deletes, truncates, and rows moved between partitions",
            ),
            deleted: counter("outboxd_rows_deleted_total", "Confirmed rows that clean-up has removed"),
            cleanup_off: gauge(
                "outboxd_cleanup_off",
                "1 while clean-up removes nothing because the table may hold rows that were never published",
            ),
            commit_to_confirm: added(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "outboxd_commit_to_confirm_seconds",
                        "Seconds from the commit of a row, by the database's clock, to the confirm of its message",
                    )
                    .buckets(COMMIT_TO_CONFIRM_BUCKETS.to_vec()),
                    &["source"],
                ),
            ),
            in_flight: gauge(
                "outboxd_in_flight_messages",
                "Messages sent to the broker and neither confirmed nor parked",
            ),
            slot_retained: gauge("outboxd_slot_retained_bytes", "WAL that the replication slot retains"),
            lag: gauge("outboxd_lag_bytes", "WAL from the confirmed position to the server's end of WAL"),
            ages: Ages::new(&registry),
            reconnects: added(
                &registry,
                IntCounterVec::new(
                    Opts::new("outboxd_reconnects_total", "Reconnects after a lost connection"),
                    &["source", "side"],
                ),
            ),
            state: added(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "outboxd_source_state",
                        "1 for the state that the source is in, 0 for the others",
                    ),
                    &["source", "state"],
                ),
            ),
            registry: registry.clone(),
        };
        describe_process(&registry, started);
        metrics
    }

    /// Makes the handles of one source. Its counters start at 0.
    pub(super) fn source(&self, name: &str) -> SourceMetrics {
        let counter = |family: &IntCounterVec| family.with_label_values(&[name]);
        SourceMetrics {
            published: counter(&self.published),
            confirmed: counter(&self.confirmed),
            returned: counter(&self.returned),
            nacked: counter(&self.nacked),
            nacked_waiting: self.nacked_waiting.with_label_values(&[name]),
            nacked_since: KnownLater { family: self.nacked_since.clone(), source: name.to_owned() },
            parked: counter(&self.parked),
            parked_rows: KnownLater { family: self.parked_rows.clone(), source: name.to_owned() },
            ignored: counter(&self.ignored),
            deleted: counter(&self.deleted),
            cleanup_off: self.cleanup_off.with_label_values(&[name]),
            commit_to_confirm: self.commit_to_confirm.with_label_values(&[name]),
            in_flight: self.in_flight.with_label_values(&[name]),
            slot_retained: KnownLater { family: self.slot_retained.clone(), source: name.to_owned() },
            lag: KnownLater { family: self.lag.clone(), source: name.to_owned() },
            ages: self.ages.source(name),
            reconnects_postgres: self.reconnects.with_label_values(&[name, "postgres"]),
            reconnects_rabbitmq: self.reconnects.with_label_values(&[name, "rabbitmq"]),
            states: SourceState::ALL
                .map(|state| (state, self.state.with_label_values(&[name, state.as_str()]))),
        }
    }

    /// Makes the reporter of the subscriptions' queues. Its families have no label `source`.
    pub(super) fn subscriptions(&self) -> SubscriptionReporter {
        let recreated = Opts::new(
            "outboxd_subscription_queue_recreated_total",
            "Number of times that outboxd declared a lost subscription queue again",
        );
        let missing = Opts::new(
            "outboxd_subscription_queue_missing",
            "1 while a subscription queue is missing or not bound, and gets no messages",
        );
        SubscriptionReporter::new(
            added(&self.registry, IntCounterVec::new(recreated, &["queue"])),
            added(&self.registry, IntGaugeVec::new(missing, &["queue"])),
        )
    }

    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        // Formatting into a string does not fail. A partial text would be better than none.
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics could not be rendered");
        }
        text
    }
}

impl SourceMetrics {
    pub(super) fn enter(&self, now: SourceState) {
        for (state, gauge) in &self.states {
            gauge.set(i64::from(*state == now));
        }
    }
}

/// A gauge that is absent before its first value. Its setter looks up the labels, which is cheap enough on a timer.
#[derive(Debug)]
pub(super) struct KnownLater {
    family: IntGaugeVec,
    source: String,
}

impl KnownLater {
    pub(super) fn set(&self, value: u64) {
        self.family.with_label_values(&[&self.source]).set(saturated(value));
    }

    /// Removes the value.
    pub(super) fn clear(&self) {
        // An error means that the gauge was absent already.
        let _ = self.family.remove_label_values(&[&self.source]);
    }
}

fn describe_process(registry: &Registry, started: SystemTime) {
    let build = Opts::new("outboxd_build_info", "Always 1; the version is the label");
    let build = added(registry, IntGaugeVec::new(build, &["version"]));
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);

    let start =
        IntGauge::new("process_start_time_seconds", "Start of the process, in seconds since the Unix epoch");
    let since_epoch = started.duration_since(UNIX_EPOCH).unwrap_or_default();
    added(registry, start).set(saturated(since_epoch.as_secs()));
    added(registry, Ok(telemetry::lost_lines().clone()));
}

#[cfg(test)]
mod tests {
    use crate::admin::{Board, Side, SourceState};
    use std::{collections::BTreeSet, time::Duration};

    fn has(text: &str, line: &str) -> bool {
        text.lines().any(|one| one == line)
    }

    #[test]
    fn every_counter_of_a_new_source_is_there_and_zero() {
        let board = Board::new();
        board.reporter("orders");
        let text = board.metrics();
        for line in [
            "outboxd_messages_published_total{source=\"orders\"} 0",
            "outboxd_messages_confirmed_total{source=\"orders\"} 0",
            "outboxd_messages_returned_total{source=\"orders\"} 0",
            "outboxd_messages_nacked_total{source=\"orders\"} 0",
            "outboxd_messages_parked_total{source=\"orders\"} 0",
            "outboxd_rows_ignored_total{source=\"orders\"} 0",
            "outboxd_rows_deleted_total{source=\"orders\"} 0",
            "outboxd_cleanup_off{source=\"orders\"} 0",
            "outboxd_commit_to_confirm_seconds_count{source=\"orders\"} 0",
            "outboxd_in_flight_messages{source=\"orders\"} 0",
            "outboxd_reconnects_total{side=\"postgres\",source=\"orders\"} 0",
            "outboxd_reconnects_total{side=\"rabbitmq\",source=\"orders\"} 0",
            "outboxd_source_state{source=\"orders\",state=\"connecting\"} 1",
            "outboxd_source_state{source=\"orders\",state=\"halted\"} 0",
            concat!("outboxd_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(has(&text, line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("\nprocess_start_time_seconds "), "{text}");
    }

    #[test]
    fn what_is_reported_arrives_under_its_own_name_and_source() {
        let board = Board::new();
        board.reporter("customers");
        let orders = board.reporter("orders");
        orders.published(1);
        orders.confirmed(2);
        board.reporter("orders").confirmed(10);
        orders.returned(3);
        orders.nacked(4);
        orders.parked(5);
        orders.ignored(6);
        orders.deleted(8);
        orders.cleanup_off(Some("an old row".to_owned()));
        orders.in_flight(7);
        orders.in_flight(6);
        orders.reconnected(Side::Postgres);
        orders.commit_to_confirm(Duration::from_millis(3));
        orders.commit_to_confirm(Duration::from_secs(600));
        let text = board.metrics();
        for line in [
            "outboxd_messages_published_total{source=\"orders\"} 1",
            "outboxd_messages_confirmed_total{source=\"orders\"} 12",
            "outboxd_messages_returned_total{source=\"orders\"} 3",
            "outboxd_messages_nacked_total{source=\"orders\"} 4",
            "outboxd_messages_parked_total{source=\"orders\"} 5",
            "outboxd_rows_ignored_total{source=\"orders\"} 6",
            "outboxd_rows_deleted_total{source=\"orders\"} 8",
            "outboxd_cleanup_off{source=\"orders\"} 1",
            "outboxd_in_flight_messages{source=\"orders\"} 6",
            "outboxd_reconnects_total{side=\"postgres\",source=\"orders\"} 1",
            "outboxd_reconnects_total{side=\"rabbitmq\",source=\"orders\"} 0",
            "outboxd_commit_to_confirm_seconds_bucket{source=\"orders\",le=\"0.0025\"} 0",
            "outboxd_commit_to_confirm_seconds_bucket{source=\"orders\",le=\"0.005\"} 1",
            "outboxd_commit_to_confirm_seconds_bucket{source=\"orders\",le=\"300\"} 1",
            "outboxd_commit_to_confirm_seconds_bucket{source=\"orders\",le=\"+Inf\"} 2",
            "outboxd_messages_confirmed_total{source=\"customers\"} 0",
        ] {
            assert!(has(&text, line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_source_is_in_exactly_one_state() {
        let board = Board::new();
        let orders = board.reporter("orders");
        for state in SourceState::ALL.into_iter().chain([SourceState::Streaming]) {
            orders.state(state, "because");
            let text = board.metrics();
            let ones: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with("outboxd_source_state{") && line.ends_with(" 1"))
                .collect();
            assert_eq!(ones, [format!("outboxd_source_state{{source=\"orders\",state=\"{state}\"}} 1")]);
        }
    }

    #[test]
    fn an_unknown_lag_is_absent_not_zero() {
        let board = Board::new();
        let orders = board.reporter("orders");
        for name in ["outboxd_lag_bytes", "outboxd_slot_retained_bytes", "outboxd_parked_rows"] {
            assert!(!board.metrics().contains(name), "{name}");
        }
        orders.lag(0);
        orders.parked_rows(Some(3));
        assert!(has(&board.metrics(), "outboxd_parked_rows{source=\"orders\"} 3"));
        orders.parked_rows(None);
        assert!(!board.metrics().contains("outboxd_parked_rows{"), "there is no such table any more");
        orders.slot(Some(1 << 40), "reserved");
        assert!(has(&board.metrics(), "outboxd_lag_bytes{source=\"orders\"} 0"));
        assert!(has(&board.metrics(), "outboxd_slot_retained_bytes{source=\"orders\"} 1099511627776"));
        orders.slot(None, "lost");
        assert!(
            !board.metrics().contains("outboxd_slot_retained_bytes{"),
            "a lost slot holds back nothing known"
        );
        orders.no_slot();
        assert!(!board.metrics().contains("outboxd_lag_bytes{"), "a slot that is gone has no lag");
    }

    #[test]
    fn odd_source_names_are_escaped_and_every_family_is_described() {
        let board = Board::new();
        board.reporter("o\"r\\d\ners").published(1);
        let text = board.metrics();
        assert!(has(&text, r#"outboxd_messages_published_total{source="o\"r\\d\ners"} 1"#), "{text}");

        let named = |line: &str, separator| line.split([separator, ' ']).next().map(str::to_owned);
        let described: BTreeSet<_> =
            text.lines().filter_map(|line| named(line.strip_prefix("# HELP ")?, ' ')).collect();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = named(line, '{').unwrap_or_default();
            let family =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            assert!(described.contains(family), "{family} has no HELP");
        }
    }
}
