//! State of messages that are sent again: nacked ones and their turns, and those whose channel was closed.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use outboxd::relay::RelayOptions;
use tokio::time::Instant;

use crate::wal::RowId;

/// Messages sent again on one connection.
#[derive(Default)]
pub(super) struct Again {
    pub(super) rows: HashMap<RowId, SentAgain>,
    /// Nacked messages, by exchange and routing key.
    pub(super) turns: HashMap<Route, Turns>,
    /// A channel was closed meanwhile, so the turns are uncertain.
    pub(super) turns_unknown: bool,
}

pub(super) type Route = (&'static str, &'static str);

#[derive(Default)]
pub(super) struct SentAgain {
    /// Number of channels that were closed while the message was in flight with others.
    pub(super) closes: u32,
    /// Number of nacks and returns.
    pub(super) refusals: u32,
    /// Number of times that the message was found to be refused, and the last time.
    pub(super) guilty: Option<(u32, Instant)>,
}

/// Nacked messages of one key. Of `batch` messages that may be sent together, `left` are still to be sent and `unanswered` have no
/// answer.
pub(super) struct Turns {
    pub(super) waiting: HashSet<RowId>,
    pub(super) out: HashSet<RowId>,
    pub(super) batch: usize,
    pub(super) left: usize,
    pub(super) unanswered: usize,
    pub(super) succeeded: usize,
    pub(super) failed: usize,
    pub(super) failures: u32,
    pub(super) failed_at: Instant,
    pub(super) not_before: Instant,
}

impl Turns {
    pub(super) fn next_batch(&mut self, options: &RelayOptions) {
        if self.unanswered > 0 {
            return;
        }
        self.batch = match (self.succeeded, self.failed) {
            (0, _) => 1,
            (_, 0) => self.batch * 2,
            (succeeded, _) => succeeded,
        };
        (self.succeeded, self.failed) = (0, 0);
        self.left = self.batch.min(self.waiting.len());
        self.unanswered = self.left;
        self.not_before = self.failed_at + least_wait(options, self.failures);
    }
}

/// Shortest wait after a number of refusals in a row.
pub(super) fn least_wait(
    RelayOptions { backoff_min, backoff_max, .. }: &RelayOptions,
    refusals: u32,
) -> Duration {
    if refusals == 0 {
        return Duration::ZERO;
    }
    (*backoff_min * (1 << (refusals - 1).min(16))).min(*backoff_max) / 2
}
