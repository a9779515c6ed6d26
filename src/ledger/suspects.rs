//! Messages of which one has made the broker close the channel, and nobody knows yet which; and those of which that is known.
//!
//! The broker does not say which message it closed the channel for, and may close it before it has confirmed earlier ones. So
//! suspects go out again in small lots, each confirmed before the window moves on; when the channel is closed for a lot, its
//! members go one by one; and the one that is alone on its way when the channel is closed is guilty. A message is therefore sent
//! three times at most, however large the window was.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// Suspects that may be on their way together.
const LOT: usize = 16;

/// Suspects, by tag.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Waiting, of a lot for which the channel was closed: these go one by one.
    alone: BTreeSet<u64>,
    /// Waiting, and go in small lots.
    few: BTreeSet<u64>,
    /// On their way again.
    out: BTreeSet<u64>,
    /// Of those the one that went alone. Nothing goes out beside it, also when it is the last of its lot.
    alone_out: Option<u64>,
}

impl Suspects {
    /// The first that waits.
    pub(super) fn first(&self) -> Option<u64> {
        self.alone.first().into_iter().chain(self.few.first()).min().copied()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.alone.len() + self.few.len()
    }

    /// Whether any is on its way: until it is answered, nothing but suspects may be sent.
    pub(super) fn are_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// Takes the next one that may go out beside so many that are on their way.
    pub(super) fn next(&mut self, published: usize) -> Option<u64> {
        let tag = self.first()?;
        let goes_alone = self.alone.contains(&tag);
        let limit = if goes_alone { 1 } else { LOT };
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

    /// A message was answered, or is not on its way any more.
    pub(super) fn answered(&mut self, tag: u64) {
        self.out.remove(&tag);
        self.alone_out.take_if(|alone| *alone == tag);
    }

    /// Whether a suspect is on its way.
    pub(super) fn is_out(&self, tag: u64) -> bool {
        self.out.contains(&tag)
    }

    /// A suspect was not sent after all: it waits again.
    pub(super) fn again(&mut self, tag: u64) {
        self.few.insert(tag);
    }

    /// The channel was closed for one of these.
    pub(super) fn accuse(&mut self, sent: &[u64]) {
        // They have been sent as a lot already, or are no more than one.
        let is_a_lot = sent.len() <= LOT;
        self.out.clear();
        self.alone_out = None;
        if is_a_lot { &mut self.alone } else { &mut self.few }.extend(sent);
    }
}

/// Messages that the broker is known to refuse, by tag. Each is tried again alone, and nothing behind the first one goes out.
#[derive(Debug, Default)]
pub(super) struct Forbidden {
    /// When each is due again.
    waiting: BTreeMap<u64, Instant>,
    out: Option<u64>,
}

impl Forbidden {
    /// The first one.
    pub(super) fn first(&self) -> Option<u64> {
        self.waiting.keys().next().copied().into_iter().chain(self.out).min()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether one is on its way: nothing else may go out beside it.
    pub(super) fn is_out(&self) -> bool {
        self.out.is_some()
    }

    /// When the next one is due.
    pub(super) fn next_again(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    /// Whether one is due.
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

    /// A message is refused until `again_at` at least.
    pub(super) fn refused(&mut self, tag: u64, again_at: Instant) {
        self.waiting.insert(tag, again_at);
    }

    /// A message was answered, or is not on its way any more; whether it was the one that was tried again.
    pub(super) fn answered(&mut self, tag: u64) -> bool {
        self.out.take_if(|out| *out == tag).is_some()
    }
}
