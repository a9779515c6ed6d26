//! The queues of subscriptions, as the look at them reports: one [`SubscriptionReporter`] for the process.

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
    /// The queue.
    pub queue: String,
    /// Reason why it gets no messages; `null` while it is there.
    pub missing: Option<String>,
    /// Number of times that it was gone and was declared anew since the daemon started.
    pub recreated: u64,
    /// Time of the last one; RFC 3339, UTC.
    pub recreated_at: Option<String>,
}

/// Tells the board about the queues of subscriptions. Cheap to clone.
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

    /// The queue is there.
    pub fn present(&self, queue: &str) {
        self.0.missing.with_label_values(&[queue]).set(0);
        self.0.recreated.with_label_values(&[queue]);
        self.change(queue, |status| status.missing = None);
    }

    /// The queue gets no messages, because of `reason`, which has the cure. Logged as an error, once for each reason.
    pub fn missing(&self, queue: &str, reason: String) {
        self.0.missing.with_label_values(&[queue]).set(1);
        self.change(queue, |status| {
            if status.missing.as_ref() != Some(&reason) {
                tracing::error!(queue, "a subscription gets no messages: {reason}");
                status.missing = Some(reason);
            }
        });
    }

    /// The queue was gone and is declared anew.
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
