//! The ledger: every message of one source that is not settled yet, in commit order.
//!
//! A message is *waiting* until the gate lets it pass, *published* while the broker has it and has not answered,
//! *refused* when the broker nacked or returned it, and *settled* once confirmed (or given up by policy). Only the
//! contiguous settled prefix moves the position, so a confirm that overtakes an earlier one changes nothing yet.
//!
//! Pure: no I/O, no clock (time is passed in), no knowledge of the wire or of lapin.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use crate::{
    outbox::{AggregateKey, Message, Timestamp},
    position::{Lsn, Position},
};

/// Proof that everything up to this LSN is settled: each message confirmed by the broker, or given up by policy.
///
/// Only the ledger makes one, so acknowledging to PostgreSQL what was merely received does not compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfirmedLsn(Lsn);

impl ConfirmedLsn {
    /// The proven position.
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

/// How far a source is settled: what a new connection goes on from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here is settled. Always the end of a transaction or a place between two.
    pub confirmed: Option<ConfirmedLsn>,
    /// The last settled row. It lies beyond `confirmed` when its transaction is settled in part.
    pub position: Option<Position>,
    /// When that row's transaction committed.
    pub committed_at: Option<Timestamp>,
}

impl Progress {
    /// How far WAL has to reach for this to be true. A server whose WAL ends before is not the one, or was set back.
    pub fn reaches(&self) -> Option<Lsn> {
        let confirmed = self.confirmed.map(ConfirmedLsn::lsn);
        // At least one byte of the commit record.
        let settled = self.position.map(|position| Lsn(position.commit_lsn.0 + 1));
        confirmed.max(settled)
    }

    /// Rows of a transaction are settled, and the whole of it is not. Only this process knows: to PostgreSQL the
    /// transaction is unconfirmed, and it will be sent again from its beginning.
    pub fn is_mid_transaction(&self) -> bool {
        let confirmed = self.confirmed.map_or(Lsn::ZERO, ConfirmedLsn::lsn);
        // A commit record's end, which is what gets confirmed, lies behind its beginning.
        self.position.is_some_and(|position| position.commit_lsn >= confirmed)
    }
}

/// Names one message between ledger and publisher. Ascending in commit order; a message that is published again
/// keeps its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishTag(pub u64);

/// When messages of one aggregate may be in flight together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// One at a time: a nack cannot let a later message of the same aggregate overtake.
    PerAggregate,
    /// Any number: a nacked message may be delivered behind a later one of its aggregate.
    Pipelined,
}

/// How much the ledger may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub messages: usize,
    /// Bytes, by [`Message::size`]. One message beyond the limit is accepted, so that a large one can pass at all.
    pub bytes: usize,
}

/// Why the broker refused a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It could not store the message (`basic.nack`).
    Nacked,
    /// No queue is bound for it (`basic.return`). Nothing else is published until it gets through.
    Unroutable,
}

#[derive(Debug)]
enum State {
    Waiting,
    Published { at: Instant },
    Refused { again_at: Instant },
    Settled,
}

#[derive(Debug)]
struct Entry {
    message: Arc<Message>,
    size: usize,
    state: State,
    /// With this message settled, everything up to here is.
    reached: Option<Lsn>,
    first_published: Option<Instant>,
    /// How often the broker refused it.
    refusals: u32,
    /// It was returned, and nothing else goes out before it gets through.
    unroutable: bool,
}

/// See the module's description.
#[derive(Debug)]
pub struct Ledger {
    ordering: Ordering,
    limits: Limits,
    entries: VecDeque<Entry>,
    /// Tag of `entries[0]`; the others follow without a gap.
    first_tag: u64,
    /// Index of the first waiting entry: all before it have been published at least once.
    waiting_from: usize,
    /// Aggregates with a message published or refused. Stays empty when pipelined.
    occupied: HashSet<AggregateKey>,
    bytes: usize,
    published: usize,
    refused: usize,
    /// Messages that were refused at least once, settled ones not counted.
    troubled: usize,
    unroutable: usize,
    progress: Progress,
}

impl Ledger {
    /// An empty ledger that goes on from `progress`.
    pub fn new(ordering: Ordering, limits: Limits, progress: Progress) -> Self {
        Self {
            ordering,
            limits,
            entries: VecDeque::new(),
            first_tag: 0,
            waiting_from: 0,
            occupied: HashSet::new(),
            bytes: 0,
            published: 0,
            refused: 0,
            troubled: 0,
            unroutable: 0,
            progress,
        }
    }

    /// Whether another message may be pushed. When not, the caller stops reading.
    pub fn has_room(&self) -> bool {
        self.entries.len() < self.limits.messages && self.bytes < self.limits.bytes
    }

    /// Whether a row was settled before this ledger began, that is by an earlier connection of the same process.
    pub fn is_settled_already(&self, position: Position) -> bool {
        self.progress.position.is_some_and(|settled| position <= settled)
    }

    /// Takes in a message, behind all others.
    pub fn push(&mut self, message: Message) {
        let size = message.size();
        self.bytes += size;
        self.entries.push_back(Entry {
            message: Arc::new(message),
            size,
            state: State::Waiting,
            reached: None,
            first_published: None,
            refusals: 0,
            unroutable: false,
        });
    }

    /// Every row that commits before `lsn` has been pushed, or was settled before: the end of a transaction, what a
    /// keepalive between two transactions says, or what the slot had confirmed when it became ours. Settling everything pushed so far now settles everything up to `lsn`.
    pub fn reached(&mut self, lsn: Lsn) {
        match self.entries.back_mut() {
            Some(last) => last.reached = last.reached.max(Some(lsn)),
            None => self.advance(lsn),
        }
    }

    /// The next message that may go out at `now`, which the caller must publish: refused ones whose time has come
    /// before any other, then waiting ones in commit order. A message whose aggregate is occupied holds back
    /// everything behind it, so that commit order stays total.
    pub fn publish_next(&mut self, now: Instant) -> Option<(PublishTag, Arc<Message>)> {
        let index = match self.due_again(now) {
            Some(index) => index,
            None => self.pass_gate()?,
        };
        let entry = &mut self.entries[index];
        entry.state = State::Published { at: now };
        entry.first_published.get_or_insert(now);
        self.published += 1;
        Some((PublishTag(self.first_tag + index as u64), Arc::clone(&entry.message)))
    }

    fn due_again(&mut self, now: Instant) -> Option<usize> {
        if self.refused == 0 {
            return None;
        }
        let due = |entry: &Entry| matches!(entry.state, State::Refused { again_at } if again_at <= now);
        let index = self.entries.iter().position(due)?;
        self.refused -= 1;
        Some(index)
    }

    fn pass_gate(&mut self) -> Option<usize> {
        if self.unroutable > 0 {
            return None;
        }
        let index = self.waiting_from;
        let entry = self.entries.get(index)?;
        if self.ordering == Ordering::PerAggregate && !self.occupied.insert(entry.message.aggregate) {
            return None;
        }
        self.waiting_from += 1;
        Some(index)
    }

    /// The broker confirmed a message, or policy gave it up. Returns it, so that the caller can measure.
    ///
    /// # Panics
    /// When the message is not published: the publisher answered twice, which is our own bug.
    pub fn settle(&mut self, tag: PublishTag) -> Arc<Message> {
        let entry = self.take_published(tag);
        entry.state = State::Settled;
        let (refused, unroutable) = (entry.refusals > 0, entry.unroutable);
        let message = Arc::clone(&entry.message);
        self.troubled -= usize::from(refused);
        self.unroutable -= usize::from(unroutable);
        self.occupied.remove(&message.aggregate);
        self.pop_settled();
        message
    }

    /// The broker refused a message: it is published again at the time that `again_at` gives for the number of
    /// refusals so far, this one included.
    ///
    /// # Panics
    /// As [`settle`](Self::settle).
    pub fn refuse(&mut self, tag: PublishTag, why: Refusal, again_at: impl FnOnce(u32) -> Instant) {
        let entry = self.take_published(tag);
        entry.refusals += 1;
        entry.state = State::Refused { again_at: again_at(entry.refusals) };
        let newly_troubled = entry.refusals == 1;
        let newly_unroutable = why == Refusal::Unroutable && !entry.unroutable;
        entry.unroutable |= newly_unroutable;
        self.refused += 1;
        self.troubled += usize::from(newly_troubled);
        self.unroutable += usize::from(newly_unroutable);
    }

    fn take_published(&mut self, tag: PublishTag) -> &mut Entry {
        let index = tag.0.checked_sub(self.first_tag).map(|index| index as usize);
        let entry = index.and_then(|index| self.entries.get_mut(index));
        match entry {
            Some(entry) if matches!(entry.state, State::Published { .. }) => {
                self.published -= 1;
                entry
            }
            other => panic!("outcome for {tag:?}, which is not published but {:?}", other.map(|e| &e.state)),
        }
    }

    fn pop_settled(&mut self) {
        while let Some(Entry { state: State::Settled, .. }) = self.entries.front() {
            let Some(entry) = self.entries.pop_front() else { break };
            self.first_tag += 1;
            self.waiting_from -= 1;
            self.bytes -= entry.size;
            self.progress.position = Some(entry.message.position);
            self.progress.committed_at = Some(entry.message.committed_at);
            if let Some(lsn) = entry.reached {
                self.advance(lsn);
            }
        }
    }

    /// Never back: what was settled stays settled.
    fn advance(&mut self, lsn: Lsn) {
        let confirmed = self.progress.confirmed.map_or(lsn, |confirmed| confirmed.0.max(lsn));
        self.progress.confirmed = Some(ConfirmedLsn(confirmed));
    }

    /// How far the contiguous settled prefix reaches.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Nothing is waiting, published or refused.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Messages held, whatever their state.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Messages that the broker has not answered yet.
    pub fn published(&self) -> usize {
        self.published
    }

    /// The first unroutable message that holds everything up, if one does.
    pub fn halted_by(&self) -> Option<&Message> {
        if self.unroutable == 0 {
            return None;
        }
        self.entries.iter().find(|entry| entry.unroutable).map(|entry| entry.message.as_ref())
    }

    /// When the earliest refused message is due again.
    pub fn next_again(&self) -> Option<Instant> {
        if self.refused == 0 {
            return None;
        }
        let again = |entry: &Entry| match entry.state {
            State::Refused { again_at } => Some(again_at),
            _ => None,
        };
        self.entries.iter().filter_map(again).min()
    }

    /// The oldest message that was published and is not settled, and when it was first published.
    pub fn oldest_unconfirmed(&self) -> Option<(&Message, Instant)> {
        let oldest = self.entries.front()?;
        Some((&oldest.message, oldest.first_published?))
    }

    /// When the message that has waited longest for the broker's answer was published.
    pub fn oldest_published(&self) -> Option<Instant> {
        if self.published == 0 {
            return None;
        }
        let mut published = self.entries.iter().filter_map(|entry| match entry.state {
            State::Published { at } => Some(at),
            _ => None,
        });
        // Messages go out in order, so the first is the oldest, unless one was published again.
        if self.troubled == 0 { published.next() } else { published.min() }
    }
}

#[cfg(test)]
mod tests;
