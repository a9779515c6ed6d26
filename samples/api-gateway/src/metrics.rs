//! Metrics of the gateway, beside those of every service.

use std::time::Duration;

use chassis::Base;
use process::failure::Failure;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::upstream::Phase;

/// Metrics. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    circuit: IntGaugeVec,
    circuit_opened: IntCounterVec,
    pub(crate) events_connected: IntGauge,
    pub(crate) events_heard: IntCounter,
    pub(crate) events_ignored: IntCounter,
    pub(crate) events_missed: IntCounter,
    pub(crate) event_streams: IntGauge,
}

impl Metrics {
    /// Adds the metrics to those of the service.
    pub(crate) fn register(base: &Base) -> Result<Self, Failure> {
        let service = &["service"];
        Ok(Self {
            requests: base.metric(IntCounterVec::new(
                Opts::new("upstream_requests_total", "Calls of a service, by outcome"),
                &["service", "outcome"],
            ))?,
            request_seconds: base.metric(HistogramVec::new(
                HistogramOpts::new(
                    "upstream_request_seconds",
                    "Time from a call of a service to its whole answer, or to the failure",
                ),
                service,
            ))?,
            circuit: base.metric(IntGaugeVec::new(
                Opts::new("circuit_state", "1 for the state of the service's circuit, 0 for the others"),
                &["service", "state"],
            ))?,
            circuit_opened: base.metric(IntCounterVec::new(
                Opts::new("circuit_opened_total", "Times that a service's closed circuit opened"),
                service,
            ))?,
            events_connected: base
                .metric(IntGauge::new("events_connected", "1 while events are heard from RabbitMQ"))?,
            events_heard: base.metric(IntCounter::new("events_heard_total", "Events heard from RabbitMQ"))?,
            events_ignored: base.metric(IntCounter::new(
                "events_ignored_total",
                "Messages that are no event of an order, or too large",
            ))?,
            events_missed: base.metric(IntCounter::new(
                "events_missed_total",
                "Events that browsers missed because they read too slowly",
            ))?,
            event_streams: base.metric(IntGauge::new("event_streams", "Browsers that listen to events"))?,
        })
    }

    pub(crate) fn asked(&self, service: &str, outcome: &str, took: Duration) {
        self.requests.with_label_values(&[service, outcome]).inc();
        self.request_seconds.with_label_values(&[service]).observe(took.as_secs_f64());
    }

    pub(crate) fn circuit(&self, service: &str, phase: Phase) {
        for other in Phase::ALL {
            let value = i64::from(other == phase);
            self.circuit.with_label_values(&[service, other.name()]).set(value);
        }
    }

    pub(crate) fn circuit_opened(&self, service: &str) {
        self.circuit_opened.with_label_values(&[service]).inc();
    }
}
