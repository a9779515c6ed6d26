//! The ledger: every message of one source that is not settled yet, in commit order.
//!
//! A message is *waiting* until the gate lets it pass, *published* while the broker has it and has not answered,
//! *refused* when the broker nacked or returned it, *parking* while policy puts its row aside, and *settled* once confirmed,
//! parked, or given up by policy. A row that no message can be made of takes its turn among them and is parked. Only the
//! contiguous settled prefix moves the position, so a confirm that overtakes an earlier one changes nothing yet.
//!
//! Pure: no I/O, no clock (time is passed in), no knowledge of the wire or of lapin.

mod item;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

pub use item::Due;
use item::Item;

use crate::{
    outbox::{AggregateKey, KeptRow, Message, ParkedRow, Timestamp},
    position::{Lsn, Position},
};

/// Proof that everything up to this LSN is settled: each message confirmed by the broker, its row parked, or given up by policy.
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
    /// Rows that were parked stand before this place in WAL.
    pub parked_before: Option<Lsn>,
}

impl Progress {
    /// How far WAL has to reach for this to be true. A server whose WAL ends before is not the one, or was set back.
    pub fn reaches(&self) -> Option<Lsn> {
        let confirmed = self.confirmed.map(ConfirmedLsn::lsn);
        // At least one byte of the commit record.
        let settled = self.position.map(|position| Lsn(position.commit_lsn.0 + 1));
        confirmed.max(settled).max(self.parked_before)
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
    Published {
        at: Instant,
    },
    Refused {
        again_at: Instant,
    },
    /// On its way to where policy puts it aside.
    Parking,
    Settled,
}

#[derive(Debug)]
struct Entry {
    item: Item,
    size: usize,
    state: State,
    /// With this message settled, everything up to here is.
    reached: Option<Lsn>,
    /// When it was first published, or its parking began.
    first_out: Option<Instant>,
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
    /// Aggregates with a message published, refused or parking. Stays empty when pipelined.
    occupied: HashSet<AggregateKey>,
    bytes: usize,
    published: usize,
    refused: usize,
    parking: usize,
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
            parking: 0,
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
        self.take_in(Item::Message { message: Arc::new(message), kept: None });
    }

    /// Takes in a message, behind all others, and keeps its row, so that it can be parked.
    pub fn push_kept(&mut self, message: Message, row: KeptRow) {
        self.take_in(Item::Message { message: Arc::new(message), kept: Some(Arc::new(row)) });
    }

    /// Takes in a row that no message can be made of, behind all others; it is parked when its turn comes.
    pub fn push_invalid(&mut self, row: ParkedRow) {
        self.take_in(Item::Invalid(Arc::new(row)));
    }

    fn take_in(&mut self, item: Item) {
        let size = item.size();
        self.bytes += size;
        self.entries.push_back(Entry {
            item,
            size,
            state: State::Waiting,
            reached: None,
            first_out: None,
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

    /// The next one that may go out at `now`, and what the caller must do with it: refused ones whose time has come
    /// before any other, then waiting ones in commit order. One whose aggregate is occupied holds back
    /// everything behind it, so that commit order stays total.
    pub fn next_due(&mut self, now: Instant) -> Option<(PublishTag, Due)> {
        let index = match self.due_again(now) {
            Some(index) => index,
            None => self.pass_gate()?,
        };
        let entry = &mut self.entries[index];
        entry.first_out.get_or_insert(now);
        let due = match &entry.item {
            Item::Message { message, .. } => {
                entry.state = State::Published { at: now };
                self.published += 1;
                Due::Publish(Arc::clone(message))
            }
            Item::Invalid(row) => {
                entry.state = State::Parking;
                self.parking += 1;
                Due::Park(Arc::clone(row))
            }
        };
        Some((PublishTag(self.first_tag + index as u64), due))
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
        if self.ordering == Ordering::PerAggregate
            && let Some(aggregate) = entry.item.aggregate()
            && !self.occupied.insert(aggregate)
        {
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
        let (message, _) = self.take_published(tag);
        self.settle_taken(tag);
        message
    }

    /// Policy puts a published message aside: its row is parking from now on, and its aggregate stays occupied.
    ///
    /// # Panics
    /// As [`settle`](Self::settle), and when the row was not kept.
    pub fn park(&mut self, tag: PublishTag) -> (Arc<Message>, Arc<KeptRow>) {
        let (message, entry) = self.take_published(tag);
        entry.state = State::Parking;
        let Item::Message { kept: Some(row), .. } = &entry.item else {
            panic!("{tag:?} is to be parked, and its row was not kept")
        };
        let row = Arc::clone(row);
        self.parking += 1;
        (message, row)
    }

    /// A row is parked for good, in WAL before `lsn`: a server whose WAL ends there does not have it.
    ///
    /// # Panics
    /// When it was not parking, which is our own bug.
    pub fn parked(&mut self, tag: PublishTag, lsn: Lsn) {
        match self.entry(tag).map(|entry| &entry.state) {
            Some(State::Parking) => self.parking -= 1,
            other => panic!("{tag:?} is parked, and was not parking but {other:?}"),
        }
        self.progress.parked_before = self.progress.parked_before.max(Some(lsn));
        self.settle_taken(tag);
    }

    fn settle_taken(&mut self, tag: PublishTag) {
        let Some(entry) = self.entry(tag) else { return };
        entry.state = State::Settled;
        let (refused, unroutable) = (entry.refusals > 0, entry.unroutable);
        let aggregate = entry.item.aggregate();
        self.troubled -= usize::from(refused);
        self.unroutable -= usize::from(unroutable);
        if let Some(aggregate) = aggregate {
            self.occupied.remove(&aggregate);
        }
        self.pop_settled();
    }

    /// The broker refused a message: it is published again at the time that `again_at` gives for the number of
    /// refusals so far, this one included.
    ///
    /// # Panics
    /// As [`settle`](Self::settle).
    pub fn refuse(&mut self, tag: PublishTag, why: Refusal, again_at: impl FnOnce(u32) -> Instant) {
        let (_, entry) = self.take_published(tag);
        entry.refusals += 1;
        entry.state = State::Refused { again_at: again_at(entry.refusals) };
        let newly_troubled = entry.refusals == 1;
        let newly_unroutable = why == Refusal::Unroutable && !entry.unroutable;
        entry.unroutable |= newly_unroutable;
        self.refused += 1;
        self.troubled += usize::from(newly_troubled);
        self.unroutable += usize::from(newly_unroutable);
    }

    fn entry(&mut self, tag: PublishTag) -> Option<&mut Entry> {
        let index = tag.0.checked_sub(self.first_tag)?;
        self.entries.get_mut(index as usize)
    }

    fn take_published(&mut self, tag: PublishTag) -> (Arc<Message>, &mut Entry) {
        let index = tag.0.checked_sub(self.first_tag).map(|index| index as usize);
        match index.and_then(|index| self.entries.get_mut(index)) {
            Some(entry @ Entry { state: State::Published { .. }, .. }) => {
                let Item::Message { message, .. } = &entry.item else {
                    unreachable!("only messages are published")
                };
                self.published -= 1;
                (Arc::clone(message), entry)
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
            self.progress.position = Some(entry.item.position());
            self.progress.committed_at = Some(entry.item.committed_at());
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

    /// Nothing is waiting, published, refused or parking.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Messages and rows held, whatever their state.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Messages that the broker has not answered yet.
    pub fn published(&self) -> usize {
        self.published
    }

    /// Rows that are on their way to where policy puts them aside.
    pub fn parking(&self) -> usize {
        self.parking
    }

    /// The first unroutable message that holds everything up, if one does.
    pub fn halted_by(&self) -> Option<&Message> {
        if self.unroutable == 0 {
            return None;
        }
        self.entries.iter().find(|entry| entry.unroutable).and_then(|entry| match &entry.item {
            Item::Message { message, .. } => Some(message.as_ref()),
            Item::Invalid(_) => None,
        })
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

    /// Of the oldest message that was published and is not settled (or row that is parking): when it was committed, and when
    /// it was first published.
    pub fn oldest_unconfirmed(&self) -> Option<(Timestamp, Instant)> {
        let oldest = self.entries.front()?;
        Some((oldest.item.committed_at(), oldest.first_out?))
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
