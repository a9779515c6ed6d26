//! The ledger: every message of one source that is not settled yet, in commit order.
//!
//! States of a message:
//!
//! - *waiting*: the gate holds it back
//! - *outstanding*: the publisher has it, and the broker has not answered
//! - *refused*: the broker nacked or returned it, or closed the channel for it
//! - *parking*: policy parks its row
//! - *settled*: confirmed, parked, or given up by policy
//!
//! A row that no message can be made of waits in the same order and is parked. Only the contiguous settled prefix moves the
//! position. A confirm that overtakes an earlier one therefore changes nothing yet.
//!
//! When the broker closes the channel, outstanding messages wait again, although the broker may have them. One of them may be the
//! cause, so they go out as suspects (`suspects.rs`). Nacked messages take turns (`nacks.rs`).
//!
//! The gate lets a message pass when every earlier message of its aggregate is settled and every earlier row of its transaction has
//! gone out. A message that waits for its aggregate holds back no other transaction.
//!
//! Pure: no I/O, no clock (time is passed in), no knowledge of the wire.

mod item;
mod nacks;
mod progress;
mod suspects;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

/// Identifies an entry, ascending in commit order. A message that is published again keeps its tag.
pub use amqp_publisher::PublishTag;
pub use item::Due;
use item::Item;
pub use nacks::Nacked;
use nacks::{Nacks, Verdict};
pub use progress::{ConfirmedLsn, Progress, Settled};

use suspects::{Forbidden, Suspects};

use crate::{
    message::{AggregateKey, KeptRow, Message, ParkedRow, Route, Timestamp},
    position::{Lsn, Position},
};

/// Rule for messages of one aggregate that are in flight together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// At most one at a time. A later message of the same aggregate cannot overtake a nacked one.
    PerAggregate,
    /// Any number. A nacked message may be delivered after a later one of its aggregate.
    Pipelined,
}

/// Limits of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of messages.
    pub messages: usize,
    /// Bytes, by [`Message::size`]. One message beyond the limit is accepted, so that a large one can pass.
    pub bytes: usize,
}

/// Fill level of a ledger at its limit.
pub const WHOLE: usize = 1 << 16;

/// Reason for which the broker refused a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The broker could not store the message (`basic.nack`). Messages of one exchange and routing key take turns.
    Nacked,
    /// The broker closes the channel for the message, or refuses its exchange. No later message is published until this one is
    /// settled.
    Forbidden,
    /// No queue is bound for the message (`basic.return`). No other message is published until this one is settled.
    Unroutable,
    /// No queue took the message, although a subscription should have. The subscriptions are being checked.
    LookedInto,
}

#[derive(Debug)]
enum EntryState {
    Waiting,
    /// The publisher has the message, and perhaps the broker. No answer yet.
    Outstanding {
        at: Instant,
    },
    Refused,
    /// The row is being parked.
    Parking,
    Settled,
}

#[derive(Debug)]
struct Entry {
    item: Item,
    size: usize,
    state: EntryState,
    /// When this entry and all before it are settled, everything up to this LSN is.
    watermark: Option<Lsn>,
    /// Time when the message was first handed to the publisher, or when parking began.
    first_out: Option<Instant>,
    /// Number of refusals by the broker.
    refusals: u32,
    /// The message was returned. No other message is published until this one is settled.
    unroutable: bool,
    /// The message was nacked, and it is its turn to be sent again.
    in_turn: bool,
    /// The exchange was missing at the last publish of this message, or of one sent beside it.
    missed: bool,
    /// The next message of the same aggregate, which waits for this one to settle.
    next_of_aggregate: Option<u64>,
    /// Number of entries that this one waits for: the previous one of its aggregate to settle, the previous one of its transaction
    /// to go out.
    waits_for: u8,
}

impl Entry {
    /// Returns whether `next`, the entry right after this one, has to wait until this one has gone out.
    fn leads(&self, next: &Item) -> bool {
        matches!(self.state, EntryState::Waiting)
            && self.first_out.is_none()
            && !matches!(next, Item::Settled { .. })
            && self.item.position().commit_lsn == next.position().commit_lsn
    }
}

/// A message that was outstanding until now.
struct Outgoing {
    message: Message,
    /// Time when the message was handed to the publisher.
    at: Instant,
    /// The message was nacked before, and it was its turn.
    in_turn: bool,
}

/// The ledger of one source. See the module's description.
#[derive(Debug)]
pub struct Ledger {
    ordering: Ordering,
    limits: Limits,
    entries: VecDeque<Entry>,
    /// Tag of `entries[0]`. The others follow without a gap.
    first_tag: u64,
    /// Tags of waiting entries that may go out, lowest first.
    ready: BinaryHeap<Reverse<u64>>,
    /// Last tag of each aggregate that has entries here. The next message of the aggregate waits for it. Empty when pipelined.
    last_of: HashMap<AggregateKey, u64>,
    /// Outstanding tags in the order in which they went out. Answered ones are removed from the front.
    outstanding_since: VecDeque<(u64, Instant)>,
    bytes: usize,
    outstanding: usize,
    /// Tags to be sent again, by the time when they are due.
    refused: BTreeSet<(Instant, u64)>,
    nacks: Nacks,
    suspects: Suspects,
    forbidden: Forbidden,
    /// Latest time at which a message that is confirmed by now was handed over.
    answered_to: Option<Instant>,
    parking: usize,
    unroutable: usize,
    progress: Progress,
    /// Rows that an earlier connection settled ahead of others and that have not arrived on this connection yet.
    ahead: BTreeSet<Position>,
}

impl Ledger {
    /// Creates an empty ledger that continues from `settled`.
    pub fn new(ordering: Ordering, limits: Limits, Settled { progress, ahead }: Settled) -> Self {
        Self {
            ordering,
            limits,
            entries: VecDeque::new(),
            first_tag: 0,
            ready: BinaryHeap::new(),
            last_of: HashMap::new(),
            outstanding_since: VecDeque::new(),
            bytes: 0,
            outstanding: 0,
            refused: BTreeSet::new(),
            nacks: Nacks::default(),
            suspects: Suspects::default(),
            forbidden: Forbidden::default(),
            answered_to: None,
            parking: 0,
            unroutable: 0,
            progress,
            ahead,
        }
    }

    /// Returns whether another message may be pushed. If not, the caller stops reading.
    pub fn has_room(&self) -> bool {
        self.holds_less_than(self.limits)
    }

    /// Returns whether the ledger holds less than `limits`, in messages and in bytes.
    pub fn holds_less_than(&self, limits: Limits) -> bool {
        self.entries.len() < limits.messages && self.bytes < limits.bytes
    }

    /// Fill level by the larger of both counts, rounded up: [`WHOLE`] at the limit.
    pub fn fill(&self) -> usize {
        let of = |held: usize, limit: usize| held.saturating_mul(WHOLE).div_ceil(limit.max(1));
        of(self.entries.len(), self.limits.messages).max(of(self.bytes, self.limits.bytes))
    }

    /// Returns whether a row is already settled: before the confirmed LSN, or by an earlier connection of this process. The caller
    /// then pushes nothing. A row that was settled ahead of others takes its position after all that was pushed.
    pub fn push_settled(&mut self, position: Position, committed_at: Timestamp) -> bool {
        if self.ahead.remove(&position) {
            self.append(Item::Settled { position, committed_at });
            self.pop_settled();
            return true;
        }
        let is_confirmed =
            self.progress.confirmed.is_some_and(|confirmed| position.commit_lsn < confirmed.lsn());
        is_confirmed || self.progress.position.is_some_and(|settled| position <= settled)
    }

    /// Returns whether rows that an earlier connection settled ahead of others are still to arrive.
    pub fn expects_settled(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Adds a message after all others.
    pub fn push(&mut self, message: Message) {
        self.append(Item::Message { message, kept: None });
    }

    /// Adds a message after all others and keeps its row, so that it can be parked.
    pub fn push_kept(&mut self, message: Message, row: KeptRow) {
        self.append(Item::Message { message, kept: Some(Arc::new(row)) });
    }

    /// Adds a row that no message can be made of, after all others. The row is parked when its turn comes.
    pub fn push_invalid(&mut self, row: ParkedRow) {
        self.append(Item::Invalid(Arc::new(row)));
    }

    fn append(&mut self, item: Item) {
        let tag = self.first_tag + self.entries.len() as u64;
        let settled = matches!(item, Item::Settled { .. });
        let before = match (self.ordering, item.aggregate()) {
            (Ordering::PerAggregate, Some(aggregate)) => self.last_of.insert(aggregate, tag),
            _ => None,
        };
        let mut waits_for = u8::from(self.entries.back().is_some_and(|last| last.leads(&item)));
        if let Some(before) = before.and_then(|before| self.entry(before)) {
            before.next_of_aggregate = Some(tag);
            waits_for += 1;
        }
        if waits_for == 0 && !settled {
            self.ready.push(Reverse(tag));
        }
        let size = item.size();
        self.bytes += size;
        self.entries.push_back(Entry {
            item,
            size,
            state: if settled { EntryState::Settled } else { EntryState::Waiting },
            watermark: None,
            first_out: None,
            refusals: 0,
            unroutable: false,
            in_turn: false,
            missed: false,
            next_of_aggregate: None,
            waits_for,
        });
    }

    /// Removes one of the reasons for which `tag` waits.
    fn release(&mut self, tag: u64) {
        let Some(entry) = self.entry(tag) else { return };
        entry.waits_for -= 1;
        if entry.waits_for == 0 {
            self.ready.push(Reverse(tag));
        }
    }

    /// Raises the watermark: every row that commits before `lsn` was pushed or is settled. When everything pushed so far is
    /// settled, everything up to `lsn` is.
    ///
    /// Callers know this from the end of a transaction, from a keepalive between two transactions, and from the confirmed position
    /// of the slot or of its record at the start.
    pub fn advance_watermark(&mut self, lsn: Lsn) {
        if !self.ahead.is_empty() {
            // Rows that another instance has confirmed in the meantime do not arrive any more.
            self.ahead = self.ahead.split_off(&Position { commit_lsn: lsn, index: 0 });
        }
        match self.entries.back_mut() {
            Some(last) => last.watermark = last.watermark.max(Some(lsn)),
            None => self.advance(lsn),
        }
    }

    /// Returns the next entry that may go out at `now`, and the step to take. Order: a forbidden message that is due, alone;
    /// suspects; refused messages that are due; entries that pass the gate, in commit order.
    pub fn next_due(&mut self, now: Instant) -> Option<(PublishTag, Due)> {
        let tag = self.next_tag(now)?;
        self.lead_out(tag);
        let entry = self.entry(tag)?;
        entry.first_out.get_or_insert(now);
        let due = match &entry.item {
            Item::Message { message, .. } => {
                let due = Due::Publish(message.clone());
                entry.state = EntryState::Outstanding { at: now };
                self.outstanding += 1;
                due
            }
            Item::Invalid(row) => {
                let due = Due::Park(Arc::clone(row));
                entry.state = EntryState::Parking;
                self.parking += 1;
                due
            }
            Item::Settled { .. } => unreachable!("what is settled is neither refused nor ready"),
        };
        if matches!(due, Due::Publish(_)) {
            self.note_outstanding(tag, now);
        }
        Some((PublishTag(tag), due))
    }

    /// Releases the next entry of the same transaction.
    fn lead_out(&mut self, tag: u64) {
        let index = (tag - self.first_tag) as usize;
        if let (Some(entry), Some(next)) = (self.entries.get(index), self.entries.get(index + 1))
            && entry.leads(&next.item)
        {
            self.release(tag + 1);
        }
    }

    fn next_tag(&mut self, now: Instant) -> Option<u64> {
        if self.forbidden.is_out() {
            return None;
        }
        if self.forbidden.is_due(now) {
            // Sent alone, so that nothing else has to be repeated if the broker closes the channel again.
            return if self.outstanding == 0 { self.forbidden.send() } else { None };
        }
        if self.has_suspects() {
            return self.suspects.next(self.outstanding);
        }
        if self.suspects.are_out() {
            return None;
        }
        self.due_again(now).or_else(|| self.pass_gate())
    }

    /// Returns whether a suspect waits that may go out. All other messages wait for suspects.
    fn has_suspects(&self) -> bool {
        self.suspects.first().is_some_and(|tag| self.is_not_behind_forbidden(tag))
    }

    fn is_not_behind_forbidden(&self, tag: u64) -> bool {
        self.forbidden.first().is_none_or(|forbidden| tag < forbidden)
    }

    fn due_again(&mut self, now: Instant) -> Option<u64> {
        let (again_at, _) = *self.refused.first()?;
        if again_at > now {
            return None;
        }
        self.refused.pop_first().map(|(_, tag)| tag)
    }

    fn pass_gate(&mut self) -> Option<u64> {
        if self.unroutable > 0 {
            return None;
        }
        let &Reverse(tag) = self.ready.peek()?;
        if !self.is_not_behind_forbidden(tag) {
            return None;
        }
        self.ready.pop().map(|Reverse(tag)| tag)
    }

    /// Settles a message that the broker confirmed or policy gave up. Returns the message, for metrics.
    ///
    /// # Panics
    /// If the message is not outstanding: the publisher answered twice, which is a bug of outboxd.
    pub fn settle(&mut self, tag: PublishTag) -> Message {
        let answered = self.answer_outstanding(tag);
        self.answered_to = self.answered_to.max(Some(answered.at));
        self.end_turn(&answered);
        self.settle_entry(tag);
        answered.message
    }

    /// Starts parking an outstanding message. Its aggregate stays occupied until the row is parked.
    ///
    /// # Panics
    /// As [`settle`](Self::settle), and if the row was not kept.
    pub fn park(&mut self, tag: PublishTag) -> (Message, Arc<KeptRow>) {
        let answered = self.answer_outstanding(tag);
        self.end_turn(&answered);
        let Some(Entry { state, item: Item::Message { kept: Some(row), .. }, .. }) = self.entry(tag.0) else {
            panic!("{tag:?} is to be parked, and its row was not kept")
        };
        *state = EntryState::Parking;
        let row = Arc::clone(row);
        self.parking += 1;
        self.forget_answered();
        (answered.message, row)
    }

    /// Settles a row that is parked, in WAL before `lsn`. A server whose WAL ends before `lsn` may lack the parked row.
    ///
    /// # Panics
    /// If the row was not being parked, which is a bug of outboxd.
    pub fn parked(&mut self, tag: PublishTag, lsn: Lsn) {
        match self.entry(tag.0).map(|entry| &entry.state) {
            Some(EntryState::Parking) => self.parking -= 1,
            other => panic!("{tag:?} is parked, and was not parking but {other:?}"),
        }
        self.progress.parked_before = self.progress.parked_before.max(Some(lsn));
        self.settle_entry(tag);
    }

    fn settle_entry(&mut self, tag: PublishTag) {
        let Some(entry) = self.entry(tag.0) else { return };
        let aggregate = entry.item.aggregate();
        entry.state = EntryState::Settled;
        // The content is freed. The position stays until the settled prefix reaches it.
        entry.item =
            Item::Settled { position: entry.item.position(), committed_at: entry.item.committed_at() };
        let size = std::mem::take(&mut entry.size);
        let unroutable = std::mem::take(&mut entry.unroutable);
        let next = entry.next_of_aggregate;
        self.bytes -= size;
        self.unroutable -= usize::from(unroutable);
        match (next, aggregate) {
            (Some(next), _) => self.release(next),
            (None, Some(aggregate)) => drop(self.last_of.remove(&aggregate)),
            (None, None) => {}
        }
        self.forget_answered();
        self.pop_settled();
    }

    /// Records that the broker refused a message. The message is published again at the time that `again_at` gives for the number
    /// of refusals, this one included.
    ///
    /// # Panics
    /// As [`settle`](Self::settle).
    pub fn refuse(&mut self, tag: PublishTag, why: Refusal, again_at: impl FnOnce(u32) -> Instant) {
        if why == Refusal::Nacked {
            self.nack(tag, u32::MAX, again_at);
            return;
        }
        let answered = self.answer_outstanding(tag);
        self.end_turn(&answered);
        let Some(entry) = self.entry(tag.0) else { return };
        entry.refusals += 1;
        entry.state = EntryState::Refused;
        let again_at = again_at(entry.refusals);
        match why {
            Refusal::Forbidden => self.forbidden.refused(tag.0, again_at),
            Refusal::Unroutable | Refusal::LookedInto | Refusal::Nacked => {
                entry.missed = false;
                let newly_unroutable = why == Refusal::Unroutable && !entry.unroutable;
                entry.unroutable |= newly_unroutable;
                self.unroutable += usize::from(newly_unroutable);
                self.refused.insert((again_at, tag.0));
            }
        }
        self.forget_answered();
    }

    /// Records a nack. Messages of one exchange and routing key take turns; `again_at` gives the time of the next turn after a
    /// number of failed ones. After `failures_max` failures in a row, returns the messages that wait for their turn. The caller
    /// must [park](Self::park_nacked) each.
    ///
    /// # Panics
    /// As [`settle`](Self::settle).
    pub fn nack(
        &mut self,
        tag: PublishTag,
        failures_max: u32,
        again_at: impl FnOnce(u32) -> Instant,
    ) -> Vec<PublishTag> {
        let Outgoing { message, at, in_turn } = self.answer_outstanding(tag);
        if let Some(entry) = self.entry(tag.0) {
            entry.state = EntryState::Refused;
            entry.missed = false;
        }
        let route = Route::of(&message);
        let verdict = self.nacks.nacked(route, tag.0, in_turn, at, failures_max, again_at);
        self.forget_answered();
        match verdict {
            Verdict::Again(due) => {
                self.schedule_turns(due);
                Vec::new()
            }
            Verdict::GivenUp(tags) => tags.into_iter().map(PublishTag).collect(),
        }
    }

    fn schedule_turns(&mut self, due: nacks::Due) {
        for (again_at, tag) in due {
            if let Some(entry) = self.entry(tag) {
                entry.in_turn = true;
                self.refused.insert((again_at, tag));
            }
        }
    }

    /// Starts parking a message that was nacked too often. See [`nack`](Self::nack).
    ///
    /// # Panics
    /// If the message does not wait after a nack, or if its row was not kept: bugs of outboxd.
    pub fn park_nacked(&mut self, tag: PublishTag) -> (Message, Arc<KeptRow>) {
        match self.entry(tag.0) {
            Some(entry @ Entry { state: EntryState::Refused, .. }) => {
                let Item::Message { message, kept: Some(row) } = &entry.item else {
                    panic!("{tag:?} is to be parked, and its row was not kept")
                };
                let parked = (message.clone(), Arc::clone(row));
                entry.state = EntryState::Parking;
                self.parking += 1;
                parked
            }
            other => panic!("{tag:?} is to be parked, and was not nacked but {:?}", other.map(|e| &e.state)),
        }
    }

    /// Records that the broker closed the channel. The messages `sent` have no answer; `unsent` had not left the publisher. All of
    /// them wait again. If `sent` is a single message, the channel was closed for it: the message stays outstanding and is
    /// returned, and the caller decides about it.
    pub fn channel_closed(&mut self, sent: &[PublishTag], unsent: &[PublishTag]) -> Option<PublishTag> {
        self.give_back(unsent);
        if let [guilty] = sent {
            return Some(*guilty);
        }
        let sent: Vec<u64> = sent.iter().map(|tag| tag.0).collect();
        self.suspects.accuse(&sent);
        for tag in sent {
            self.return_to_waiting(tag);
        }
        self.forget_answered();
        None
    }

    /// Like [`channel_closed`](Self::channel_closed), for an exchange that the broker does not have. The publisher declares the
    /// exchange before the next publish. A single message therefore waits again once, as if unsent, and is returned only the second
    /// time.
    pub fn exchange_missed(&mut self, sent: &[PublishTag], unsent: &[PublishTag]) -> Option<PublishTag> {
        let mut is_new = false;
        for PublishTag(tag) in sent {
            if let Some(entry) = self.entry(*tag) {
                is_new = !std::mem::replace(&mut entry.missed, true);
            }
        }
        if sent.len() == 1 && is_new {
            self.give_back(unsent);
            self.give_back(sent);
            return None;
        }
        self.channel_closed(sent, unsent)
    }

    /// Puts messages that the publisher had not sent back to waiting.
    pub fn give_back(&mut self, unsent: &[PublishTag]) {
        for PublishTag(tag) in unsent {
            let was_forbidden = self.forbidden.answered(*tag);
            let was_suspect = self.suspects.is_out(*tag);
            self.suspects.answered(*tag);
            let Some(at) = self.return_to_waiting(*tag) else { continue };
            if was_forbidden {
                self.forbidden.refused(*tag, at);
            } else if was_suspect {
                self.suspects.again(*tag);
            } else if self.entry(*tag).is_some_and(|entry| entry.unroutable) {
                self.refused.insert((at, *tag));
            } else {
                self.ready.push(Reverse(*tag));
            }
        }
        self.forget_answered();
    }

    /// Puts an outstanding message back to waiting. Returns the time when it was handed over.
    fn return_to_waiting(&mut self, tag: u64) -> Option<Instant> {
        let entry = self.entry(tag)?;
        let EntryState::Outstanding { at } = entry.state else { return None };
        entry.state = EntryState::Waiting;
        let in_turn = std::mem::take(&mut entry.in_turn);
        let route = match &entry.item {
            Item::Message { message, .. } if in_turn => Some(Route::of(message)),
            _ => None,
        };
        self.outstanding -= 1;
        if let Some(route) = route {
            let due = self.nacks.left(&route);
            self.schedule_turns(due);
        }
        Some(at)
    }

    fn entry(&mut self, tag: u64) -> Option<&mut Entry> {
        let index = tag.checked_sub(self.first_tag)?;
        self.entries.get_mut(index as usize)
    }

    /// Removes a message that the broker has answered from the outstanding ones.
    fn answer_outstanding(&mut self, tag: PublishTag) -> Outgoing {
        let index = tag.0.checked_sub(self.first_tag).map(|index| index as usize);
        match index.and_then(|index| self.entries.get_mut(index)) {
            Some(Entry { state: EntryState::Outstanding { at }, item, in_turn, .. }) => {
                let Item::Message { message, .. } = item else {
                    unreachable!("only messages are outstanding")
                };
                self.outstanding -= 1;
                self.suspects.answered(tag.0);
                self.forbidden.answered(tag.0);
                Outgoing { message: message.clone(), at: *at, in_turn: std::mem::take(in_turn) }
            }
            other => {
                panic!("outcome for {tag:?}, which is not outstanding but {:?}", other.map(|e| &e.state))
            }
        }
    }

    /// Ends the turn of a message that is settled, parking, or refused for another reason.
    fn end_turn(&mut self, Outgoing { message, in_turn, .. }: &Outgoing) {
        if *in_turn {
            let due = self.nacks.got_through(&Route::of(message));
            self.schedule_turns(due);
        }
    }

    fn pop_settled(&mut self) {
        while let Some(Entry { state: EntryState::Settled, .. }) = self.entries.front() {
            let Some(entry) = self.entries.pop_front() else { break };
            self.first_tag += 1;
            self.progress.position = Some(entry.item.position());
            self.progress.committed_at = Some(entry.item.committed_at());
            if let Some(lsn) = entry.watermark {
                self.advance(lsn);
            }
        }
    }

    /// Never goes back: what was settled stays settled.
    fn advance(&mut self, lsn: Lsn) {
        let confirmed = self.progress.confirmed.map_or(lsn, |confirmed| confirmed.0.max(lsn));
        self.progress.confirmed = Some(ConfirmedLsn(confirmed));
    }

    /// Returns the end of the contiguous settled prefix.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Returns a position that the WAL of the current server has certainly reached.
    pub fn read_to(&self) -> Lsn {
        let Progress { confirmed, parked_before, .. } = self.progress;
        let read = self.entries.back().map(|entry| entry.item.position()).max(self.ahead.last().copied());
        let read = read.map(|position| position.commit_lsn);
        confirmed.map(ConfirmedLsn::lsn).max(parked_before).max(read).unwrap_or(Lsn::ZERO)
    }

    /// Returns all that is settled, for the ledger of the next connection.
    pub fn settled(&self) -> Settled {
        let held = self.entries.iter().filter(|entry| matches!(entry.state, EntryState::Settled));
        let ahead = held.map(|entry| entry.item.position()).chain(self.ahead.iter().copied()).collect();
        Settled { progress: self.progress, ahead }
    }

    /// Returns whether nothing is waiting, outstanding, refused or parking.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the first entry's message. `None` if the first entry is not a message.
    pub fn oldest(&self) -> Option<&Message> {
        self.message(PublishTag(self.first_tag))
    }

    /// Number of messages and rows held, in any state.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of messages that the broker has not answered yet.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Number of rows that are being parked.
    pub fn parking(&self) -> usize {
        self.parking
    }

    /// Number of messages that were handed to the publisher and are neither settled nor parking: outstanding ones, and those to be
    /// sent again.
    pub fn in_flight(&self) -> usize {
        let again = self.refused.len() + self.nacks.waiting();
        self.outstanding + again + self.suspects.waiting() + self.forbidden.waiting()
    }

    /// Returns whether some queue may already have a message that is to be sent again: other queues took it before the nack, or the
    /// channel was closed before its confirm.
    pub fn may_repeat(&self) -> bool {
        self.suspects.waiting() > 0 || self.nacks.shown().is_some()
    }

    /// Returns the first unroutable message that holds back all others.
    pub fn halted_by(&self) -> Option<&Message> {
        if self.unroutable == 0 {
            return None;
        }
        self.entries.iter().find(|entry| entry.unroutable).and_then(|entry| match &entry.item {
            Item::Message { message, .. } => Some(message),
            Item::Invalid(_) | Item::Settled { .. } => None,
        })
    }

    /// Returns the first forbidden message, which holds back every later one.
    pub fn forbidden(&self) -> Option<PublishTag> {
        self.forbidden.first().map(PublishTag)
    }

    /// Summary of messages that wait after a nack. `None` if there are none.
    pub fn nacked(&self) -> Option<Nacked<'_>> {
        self.nacks.shown()
    }

    /// Time when the next refused message is due, as far as only time decides.
    pub fn next_again(&self, now: Instant) -> Option<Instant> {
        if self.forbidden.is_out() {
            return None;
        }
        if self.forbidden.is_due(now) {
            return self.forbidden.next_again().filter(|_| self.outstanding == 0);
        }
        let refused = self.refused.first().map(|(again_at, _)| *again_at);
        // Refused messages wait until the suspects are answered.
        let refused = refused.filter(|_| !self.has_suspects() && !self.suspects.are_out());
        refused.into_iter().chain(self.forbidden.next_again()).min()
    }

    /// Commit time and first hand-over of the oldest message (or parking row) that went out and is not settled.
    pub fn oldest_unconfirmed(&self) -> Option<(Timestamp, Instant)> {
        let oldest = self.entries.front()?;
        Some((oldest.item.committed_at(), oldest.first_out?))
    }

    /// Hand-over time of the message that has waited longest for the broker's answer.
    pub fn oldest_outstanding(&self) -> Option<Instant> {
        self.outstanding_since.front().map(|(_, at)| *at)
    }

    /// The message that has waited longest for the broker's answer.
    pub fn longest_unanswered(&self) -> Option<&Message> {
        let &(tag, _) = self.outstanding_since.front()?;
        self.message(PublishTag(tag))
    }

    /// Returns whether a confirm arrived for a message that was handed over no earlier than the longest unanswered one.
    pub fn is_overtaken(&self) -> bool {
        self.oldest_outstanding().is_some_and(|oldest| self.answered_to >= Some(oldest))
    }

    /// Positions of the messages that the broker has not answered yet.
    pub fn unanswered(&self) -> BTreeSet<Position> {
        let outstanding =
            self.entries.iter().filter(|entry| matches!(entry.state, EntryState::Outstanding { .. }));
        outstanding.map(|entry| entry.item.position()).collect()
    }

    /// Returns a message that is not settled.
    pub fn message(&self, PublishTag(tag): PublishTag) -> Option<&Message> {
        let index = tag.checked_sub(self.first_tag)?;
        match &self.entries.get(index as usize)?.item {
            Item::Message { message, .. } => Some(message),
            Item::Invalid(_) | Item::Settled { .. } => None,
        }
    }

    /// Appends to `outstanding_since`. Answered entries behind an unanswered one are removed once they are many, so that the queue
    /// stays small.
    fn note_outstanding(&mut self, tag: u64, now: Instant) {
        if self.outstanding_since.len() > 2 * self.entries.len() {
            let mut noted = std::mem::take(&mut self.outstanding_since);
            noted.retain(|(tag, at)| self.is_unanswered(*tag, *at));
            self.outstanding_since = noted;
        }
        self.outstanding_since.push_back((tag, now));
    }

    /// Returns whether the publish of `tag` at that time has no answer yet.
    fn is_unanswered(&self, tag: u64, handed_over: Instant) -> bool {
        let index = tag.checked_sub(self.first_tag).map(|index| index as usize);
        let entry = index.and_then(|index| self.entries.get(index));
        matches!(entry, Some(Entry { state: EntryState::Outstanding { at }, .. }) if *at == handed_over)
    }

    /// Removes answered entries from the front of `outstanding_since`.
    fn forget_answered(&mut self) {
        while let Some(&(tag, handed_over)) = self.outstanding_since.front() {
            if self.is_unanswered(tag, handed_over) {
                return;
            }
            self.outstanding_since.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
