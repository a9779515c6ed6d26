//! State of the subscriptions' queues: one [`SubscriptionReporter`] for the process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use prometheus::{IntCounterVec, IntGaugeVec};
use serde::{Deserialize, Serialize};

use crate::message::Timestamp;

/// One queue of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionStatus {
    /// Name of the queue.
    pub queue: String,
    /// Reason why the queue gets no messages; `null` while the queue exists.
    pub missing: Option<String>,
    /// Number of times that outboxd declared the queue again after its loss, since the daemon started.
    pub recreated: u64,
    /// Time of the last such declaration; RFC 3339, UTC.
    pub recreated_at: Option<String>,
}

/// Reports the subscriptions' queues to the board. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SubscriptionReporter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    recreated: IntCounterVec,
    missing: IntGaugeVec,
    queues: Mutex<BTreeMap<String, SubscriptionStatus>>,
}

impl SubscriptionReporter {
    pub(super) fn new(recreated: IntCounterVec, missing: IntGaugeVec) -> Self {
        Self(Arc::new(Inner { recreated, missing, queues: Mutex::default() }))
    }

    /// Reports that the queue exists.
    pub fn present(&self, queue: &str) {
        self.0.missing.with_label_values(&[queue]).set(0);
        self.0.recreated.with_label_values(&[queue]);
        self.change(queue, |status| status.missing = None);
    }

    /// Reports that the queue gets no messages, because of `reason`, which has the cure. Logs an error, once for each reason.
    pub fn missing(&self, queue: &str, reason: String) {
        self.0.missing.with_label_values(&[queue]).set(1);
        self.change(queue, |status| {
            if status.missing.as_ref() != Some(&reason) {
                tracing::error!(queue, "a subscription gets no messages: {reason}");
                status.missing = Some(reason);
            }
        });
    }

    /// Reports that the queue was lost and is declared again.
    pub fn recreated(&self, queue: &str, at: SystemTime) {
        self.0.recreated.with_label_values(&[queue]).inc();
        self.change(queue, |status| {
            status.recreated += 1;
            status.recreated_at = Some(Timestamp::from(at).to_string());
        });
    }

    pub(super) fn status(&self) -> Vec<SubscriptionStatus> {
        self.queues().values().cloned().collect()
    }

    fn change(&self, queue: &str, change: impl FnOnce(&mut SubscriptionStatus)) {
        let mut queues = self.queues();
        let new = || SubscriptionStatus { queue: queue.to_owned(), ..Default::default() };
        change(queues.entry(queue.to_owned()).or_insert_with(new));
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<String, SubscriptionStatus>> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
