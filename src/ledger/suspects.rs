//! Suspects: messages of which one made the broker close the channel. Also the forbidden messages, for which that is proven.
//!
//! The broker does not name the message for which it closed the channel, and may close it before it confirms earlier messages.
//! Suspects therefore go out again in small batches, each confirmed before the next. If the channel is closed for a batch, its
//! members go out one by one. The message that is outstanding alone when the channel is closed is the cause. A message is sent
//! three times at most, however large the in-flight window was.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// Largest number of suspects that are outstanding together.
const BATCH: usize = 16;

/// Suspects, by tag.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Waiting members of a batch for which the channel was closed, to go out one by one.
    alone: BTreeSet<u64>,
    /// Waiting suspects that go out in small batches.
    few: BTreeSet<u64>,
    /// Suspects that are outstanding again.
    out: BTreeSet<u64>,
    /// The outstanding suspect that went out alone. Nothing goes out beside it, even if it is the last of its batch.
    alone_out: Option<u64>,
}

impl Suspects {
    /// Returns the first waiting suspect.
    pub(super) fn first(&self) -> Option<u64> {
        self.alone.first().into_iter().chain(self.few.first()).min().copied()
    }

    /// Number of waiting suspects.
    pub(super) fn waiting(&self) -> usize {
        self.alone.len() + self.few.len()
    }

    /// Returns whether suspects are outstanding. Until they are answered, only suspects may be sent.
    pub(super) fn are_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// Takes the next suspect that may go out beside `published` outstanding messages.
    pub(super) fn next(&mut self, published: usize) -> Option<u64> {
        let tag = self.first()?;
        let goes_alone = self.alone.contains(&tag);
        let limit = if goes_alone { 1 } else { BATCH };
        if published >= limit || self.alone_out.is_some() {
            return None;
        }
        if goes_alone {
            self.alone.remove(&tag);
            self.alone_out = Some(tag);
        } else {
            self.few.remove(&tag);
        }
        self.out.insert(tag);
        Some(tag)
    }

    /// Records that a message was answered, or is no longer outstanding.
    pub(super) fn answered(&mut self, tag: u64) {
        self.out.remove(&tag);
        self.alone_out.take_if(|alone| *alone == tag);
    }

    /// Returns whether this suspect is outstanding.
    pub(super) fn is_out(&self, tag: u64) -> bool {
        self.out.contains(&tag)
    }

    /// Puts back a suspect that was not sent.
    pub(super) fn again(&mut self, tag: u64) {
        self.few.insert(tag);
    }

    /// Records that the channel was closed for one of `sent`.
    pub(super) fn accuse(&mut self, sent: &[u64]) {
        // At most a batch: either sent as one before, or small enough to try one by one.
        let is_a_batch = sent.len() <= BATCH;
        self.out.clear();
        self.alone_out = None;
        if is_a_batch { &mut self.alone } else { &mut self.few }.extend(sent);
    }
}

/// Messages that the broker is known to refuse, by tag. Each is tried again alone. No message after the first one goes out.
#[derive(Debug, Default)]
pub(super) struct Forbidden {
    /// Time when each is due again.
    waiting: BTreeMap<u64, Instant>,
    out: Option<u64>,
}

impl Forbidden {
    /// Returns the first forbidden message.
    pub(super) fn first(&self) -> Option<u64> {
        self.waiting.keys().next().copied().into_iter().chain(self.out).min()
    }

    /// Number of waiting messages.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether one is outstanding. Nothing else may go out beside it.
    pub(super) fn is_out(&self) -> bool {
        self.out.is_some()
    }

    /// Time when the next one is due.
    pub(super) fn next_again(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    /// Returns whether one is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_again().is_some_and(|again_at| again_at <= now)
    }

    /// Takes the one that is due first.
    pub(super) fn send(&mut self) -> Option<u64> {
        let (&tag, _) = self.waiting.iter().min_by_key(|(_, again_at)| **again_at)?;
        self.waiting.remove(&tag);
        self.out = Some(tag);
        Some(tag)
    }

    /// Records that a message is refused, to be tried again at `again_at`.
    pub(super) fn refused(&mut self, tag: u64, again_at: Instant) {
        self.waiting.insert(tag, again_at);
    }

    /// Records that a message was answered, or is no longer outstanding. Returns whether it was the forbidden one that was tried.
    pub(super) fn answered(&mut self, tag: u64) -> bool {
        self.out.take_if(|out| *out == tag).is_some()
    }
}
