//! Prometheus metrics of a service.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use super::inbox::Outcome;
use process::telemetry;

/// Metrics of requests and messages. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    messages: IntCounterVec,
    message_seconds: HistogramVec,
    retries: IntCounterVec,
    waiting: IntGaugeVec,
    dead: IntGaugeVec,
    dead_lettered: IntCounterVec,
    pruned: IntCounterVec,
    connected: IntGaugeVec,
    sagas_running: IntGaugeVec,
    sagas_silent: IntGaugeVec,
}

impl Metrics {
    pub(super) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        registered(&registry, telemetry::lost_lines().clone())?;
        let request = &["method", "path"];
        Ok(Self {
            requests: registered(
                &registry,
                IntCounterVec::new(
                    Opts::new("http_requests_total", "Requests answered"),
                    &["method", "path", "status"],
                )?,
            )?,
            request_seconds: registered(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new("http_request_seconds", "Time from a request's arrival to its answer"),
                    request,
                )?,
            )?,
            messages: registered(
                &registry,
                IntCounterVec::new(
                    Opts::new("inbox_messages_total", "Messages acknowledged, by outcome"),
                    &["queue", "outcome"],
                )?,
            )?,
            message_seconds: registered(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "inbox_message_seconds",
                        "Time from a message's arrival to its acknowledgement",
                    ),
                    &["queue"],
                )?,
            )?,
            retries: registered(
                &registry,
                IntCounterVec::new(
                    Opts::new("inbox_retries_total", "Messages tried again after a transient failure"),
                    &["queue"],
                )?,
            )?,
            waiting: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new("inbox_waiting_messages", "Messages that wait in the queue"),
                    &["queue"],
                )?,
            )?,
            dead: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new("inbox_dead_messages", "Messages that lie in the dead-letter queue"),
                    &["queue"],
                )?,
            )?,
            dead_lettered: registered(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "inbox_dead_lettered_total",
                        "Messages that RabbitMQ or another instance put into the dead-letter queue",
                    ),
                    &["queue"],
                )?,
            )?,
            pruned: registered(
                &registry,
                IntCounterVec::new(
                    Opts::new("inbox_pruned_rows_total", "Rows of the inbox removed by retention"),
                    &["queue"],
                )?,
            )?,
            connected: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new("inbox_connected", "1 while the queue is being consumed"),
                    &["queue"],
                )?,
            )?,
            sagas_running: registered(
                &registry,
                IntGaugeVec::new(Opts::new("saga_running", "Sagas that have not ended"), &["type"])?,
            )?,
            sagas_silent: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new("saga_silent", "Sagas that have had no reply for longer than saga_silence_s"),
                    &["type"],
                )?,
            )?,
            registry,
        })
    }

    /// Adds a metric of the service's own.
    pub(super) fn register(&self, metric: impl Collector + 'static) -> prometheus::Result<()> {
        self.registry.register(Box::new(metric))
    }

    pub(super) fn answered(&self, method: &str, path: &str, status: u16, took: Duration) {
        self.requests.with_label_values(&[method, path, &status.to_string()]).inc();
        self.request_seconds.with_label_values(&[method, path]).observe(took.as_secs_f64());
    }

    pub(super) fn settled(&self, queue: &str, outcome: Outcome, took: Duration) {
        self.messages.with_label_values(&[queue, outcome.name()]).inc();
        self.message_seconds.with_label_values(&[queue]).observe(took.as_secs_f64());
    }

    pub(super) fn retried(&self, queue: &str) {
        self.retries.with_label_values(&[queue]).inc();
    }

    pub(super) fn waiting(&self, queue: &str, messages: u32) {
        self.waiting.with_label_values(&[queue]).set(messages.into());
    }

    pub(super) fn dead(&self, queue: &str, messages: u32) {
        self.dead.with_label_values(&[queue]).set(messages.into());
    }

    pub(super) fn dead_lettered(&self, queue: &str, messages: u32) {
        self.dead_lettered.with_label_values(&[queue]).inc_by(messages.into());
    }

    pub(super) fn pruned(&self, queue: &str, rows: u64) {
        self.pruned.with_label_values(&[queue]).inc_by(rows);
    }

    pub(super) fn connected(&self, queue: &str) {
        self.connected.with_label_values(&[queue]).set(1);
    }

    pub(super) fn sagas(&self, saga_type: &str, running: i64, silent: i64) {
        self.sagas_running.with_label_values(&[saga_type]).set(running);
        self.sagas_silent.with_label_values(&[saga_type]).set(silent);
    }

    pub(super) fn disconnected(&self, queue: &str) {
        self.connected.with_label_values(&[queue]).set(0);
        // The number of waiting messages is unknown now. The series may not exist yet.
        let _ = self.waiting.remove_label_values(&[queue]);
        let _ = self.dead.remove_label_values(&[queue]);
    }

    /// Returns the metrics in Prometheus's text format.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Only a metric without a sample cannot be encoded, and `gather` omits those.
        let _ = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text);
        text
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
