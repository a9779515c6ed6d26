//! The ledger: every message of one source that is not settled yet, in commit order.
//!
//! A message is *waiting* until the gate lets it pass, *outstanding* from when the publisher has it until the broker answers,
//! *refused* when the broker nacked or returned it, *parking* while policy puts its row aside, and *settled* once confirmed,
//! parked, or given up by policy. A row that no message can be made of takes its turn among them and is parked. Only the
//! contiguous settled prefix moves the position, so a confirm that overtakes an earlier one changes nothing yet.
//!
//! What was outstanding and is given back unanswered, as the broker has closed its channel, is waiting again: it may be with the broker.
//! One of those messages may be the reason, so that they go out as suspects, see `suspects.rs`. Messages that were nacked
//! take turns, see `nacks.rs`.
//!
//! The gate lets a message pass when everything of its aggregate that stands before it is settled, and everything of its
//! transaction that stands before it is out. What waits there holds no other transaction up.
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

/// Ascending in commit order; a message that is published again keeps its tag.
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

/// How full a ledger is at its limit.
pub const WHOLE: usize = 1 << 16;

/// Why the broker refused a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It could not store the message (`basic.nack`). Those of one exchange and routing key take turns.
    Nacked,
    /// It closes the channel for the message, or refuses its exchange. Nothing behind it is published until it gets through.
    Forbidden,
    /// No queue is bound for it (`basic.return`). Nothing else is published until it gets through.
    Unroutable,
    /// No queue took it, though one should have; whether that is still so is being looked at.
    LookedInto,
}

#[derive(Debug)]
enum EntryState {
    Waiting,
    /// The publisher has it, and perhaps the broker, which has not answered.
    Outstanding {
        at: Instant,
    },
    Refused,
    /// On its way to where policy puts it aside.
    Parking,
    Settled,
}

#[derive(Debug)]
struct Entry {
    item: Item,
    size: usize,
    state: EntryState,
    /// With this message settled, everything up to here is.
    watermark: Option<Lsn>,
    /// When it was first handed to the publisher, or its parking began.
    first_out: Option<Instant>,
    /// How often the broker refused it.
    refusals: u32,
    /// It was returned, and nothing else goes out before it gets through.
    unroutable: bool,
    /// It was nacked, and it is its turn to be tried again.
    in_turn: bool,
    /// The broker had no exchange for it when it was sent last, or for one that was sent beside it.
    missed: bool,
    /// The next one of its aggregate, which waits for this one to settle.
    next_of_aggregate: Option<u64>,
    /// For how many it waits: for its aggregate's previous one to settle, for its transaction's previous one to go out.
    waits_for: u8,
}

impl Entry {
    /// Whether `next`, which stands right behind it, has to wait for it to go out.
    fn leads(&self, next: &Item) -> bool {
        matches!(self.state, EntryState::Waiting)
            && self.first_out.is_none()
            && !matches!(next, Item::Settled { .. })
            && self.item.position().commit_lsn == next.position().commit_lsn
    }
}

/// A message that was on its way until now.
struct Outgoing {
    message: Message,
    /// When it was handed to the publisher.
    at: Instant,
    /// It had been nacked before, and it was its turn.
    in_turn: bool,
}

/// See the module's description.
#[derive(Debug)]
pub struct Ledger {
    ordering: Ordering,
    limits: Limits,
    entries: VecDeque<Entry>,
    /// Tag of `entries[0]`; the others follow without a gap.
    first_tag: u64,
    /// Tags of those that wait and may go out, lowest first.
    ready: BinaryHeap<Reverse<u64>>,
    /// Of each aggregate that has something in here the last tag: the next one has to wait for it. Stays empty when
    /// pipelined.
    last_of: HashMap<AggregateKey, u64>,
    /// In the order in which they went out; answered ones are taken from the front.
    outstanding_since: VecDeque<(u64, Instant)>,
    bytes: usize,
    outstanding: usize,
    /// When each that is to be tried again is due, and its tag.
    refused: BTreeSet<(Instant, u64)>,
    nacks: Nacks,
    suspects: Suspects,
    forbidden: Forbidden,
    /// The latest time at which a message was handed over that is confirmed.
    answered_to: Option<Instant>,
    parking: usize,
    unroutable: usize,
    progress: Progress,
    /// Rows that were settled on an earlier connection, and have not come by again yet.
    ahead: BTreeSet<Position>,
}

impl Ledger {
    /// An empty ledger that goes on from what is settled.
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

    /// Whether another message may be pushed. When not, the caller stops reading.
    pub fn has_room(&self) -> bool {
        self.holds_less_than(self.limits)
    }

    /// Whether it holds less than so much, by both counts.
    pub fn holds_less_than(&self, limits: Limits) -> bool {
        self.entries.len() < limits.messages && self.bytes < limits.bytes
    }

    /// How full it is, by whichever count is more, rounded up: [`WHOLE`] at its limit.
    pub fn fill(&self) -> usize {
        let of = |held: usize, limit: usize| held.saturating_mul(WHOLE).div_ceil(limit.max(1));
        of(self.entries.len(), self.limits.messages).max(of(self.bytes, self.limits.bytes))
    }

    /// Whether a row is settled already, by an earlier connection of the same process or before the confirmed LSN: then there
    /// is nothing to push. One that was settled ahead of others takes its place behind all that was pushed.
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

    /// Whether rows that were settled on an earlier connection are still to come by.
    pub fn expects_settled(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Takes in a message, behind all others.
    pub fn push(&mut self, message: Message) {
        self.append(Item::Message { message, kept: None });
    }

    /// Takes in a message, behind all others, and keeps its row, so that it can be parked.
    pub fn push_kept(&mut self, message: Message, row: KeptRow) {
        self.append(Item::Message { message, kept: Some(Arc::new(row)) });
    }

    /// Takes in a row that no message can be made of, behind all others; it is parked when its turn comes.
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

    /// One thing less for `tag` to wait for.
    fn release(&mut self, tag: u64) {
        let Some(entry) = self.entry(tag) else { return };
        entry.waits_for -= 1;
        if entry.waits_for == 0 {
            self.ready.push(Reverse(tag));
        }
    }

    /// Every row that commits before `lsn` has been pushed, or was settled before: the end of a transaction, what a
    /// keepalive between two transactions says, or what the slot (or its record) had confirmed when it became ours. Settling
    /// everything pushed so far now settles everything up to `lsn`.
    pub fn advance_watermark(&mut self, lsn: Lsn) {
        if !self.ahead.is_empty() {
            // Whatever another instance went past in the meantime does not come by any more.
            self.ahead = self.ahead.split_off(&Position { commit_lsn: lsn, index: 0 });
        }
        match self.entries.back_mut() {
            Some(last) => last.watermark = last.watermark.max(Some(lsn)),
            None => self.advance(lsn),
        }
    }

    /// The next one that may go out at `now`, and what the caller must do with it: a forbidden one whose time has come, alone;
    /// then suspects; refused ones whose time has come; then those that the gate lets pass, in commit order.
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

    /// Its transaction's next one need not wait for it any longer.
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
            // Alone: should the channel be closed again, nothing else has to be repeated.
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

    /// Whether a suspect waits that may go out, which all others wait for.
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

    /// The broker confirmed a message, or policy gave it up. Returns it, so that the caller can measure.
    ///
    /// # Panics
    /// When the message is not outstanding: the publisher answered twice, which is our own bug.
    pub fn settle(&mut self, tag: PublishTag) -> Message {
        let answered = self.answer_outstanding(tag);
        self.answered_to = self.answered_to.max(Some(answered.at));
        self.end_turn(&answered);
        self.settle_entry(tag);
        answered.message
    }

    /// Policy puts an outstanding message aside: its row is parking from now on, and its aggregate stays occupied.
    ///
    /// # Panics
    /// As [`settle`](Self::settle), and when the row was not kept.
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

    /// A row is parked for good, in WAL before `lsn`: a server whose WAL ends there does not have it.
    ///
    /// # Panics
    /// When it was not parking, which is our own bug.
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
        // What it took up is free now; only its place is kept until the prefix has come here.
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

    /// The broker refused a message: it is published again, not before the time that `again_at` gives for the number of refusals
    /// so far, this one included.
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

    /// The broker nacked a message. Messages of one exchange and routing key take turns; `again_at` gives the time of the next
    /// turn after so many that were in vain. When there were `failures_max` in a row, gives those that wait for their turn: the
    /// caller must have each [put aside](Self::park_nacked).
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

    /// Policy puts a message aside that was nacked too often, see [`nack`](Self::nack).
    ///
    /// # Panics
    /// When the message does not wait after a nack, or its row was not kept: our own bugs.
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

    /// The broker closed the channel for one of the messages that were sent on it, `sent`, of which it has answered none;
    /// `unsent` were handed to the publisher, and nothing was sent of them. All are waiting again, unless one alone was sent: then
    /// that is the guilty one. It stays outstanding, and the caller says what becomes of it.
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

    /// As [`channel_closed`](Self::channel_closed), for an exchange that the broker does not have. Whatever is sent again has its
    /// exchange declared first, so that one message alone is not guilty yet: it waits again, once, as if nothing had been sent of it.
    /// The next time it is.
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

    /// Nothing was sent of these: they wait again.
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

    /// An outstanding one waits again. Gives when it was handed over.
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

    /// The broker has answered a message.
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

    /// A message that is settled, parking, or refused for another reason needs no turn any more.
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

    /// Never back: what was settled stays settled.
    fn advance(&mut self, lsn: Lsn) {
        let confirmed = self.progress.confirmed.map_or(lsn, |confirmed| confirmed.0.max(lsn));
        self.progress.confirmed = Some(ConfirmedLsn(confirmed));
    }

    /// How far the contiguous settled prefix reaches.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// How far WAL reaches at least on the server that all of this is from.
    pub fn read_to(&self) -> Lsn {
        let Progress { confirmed, parked_before, .. } = self.progress;
        let read = self.entries.back().map(|entry| entry.item.position()).max(self.ahead.last().copied());
        let read = read.map(|position| position.commit_lsn);
        confirmed.map(ConfirmedLsn::lsn).max(parked_before).max(read).unwrap_or(Lsn::ZERO)
    }

    /// All that is settled, for the ledger of the next connection.
    pub fn settled(&self) -> Settled {
        let held = self.entries.iter().filter(|entry| matches!(entry.state, EntryState::Settled));
        let ahead = held.map(|entry| entry.item.position()).chain(self.ahead.iter().copied()).collect();
        Settled { progress: self.progress, ahead }
    }

    /// Nothing is waiting, outstanding, refused or parking.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first message that is not settled, if the first that is held is one.
    pub fn oldest(&self) -> Option<&Message> {
        self.message(PublishTag(self.first_tag))
    }

    /// Messages and rows held, whatever their state.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Messages that the broker has not answered yet.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Rows that are on their way to where policy puts them aside.
    pub fn parking(&self) -> usize {
        self.parking
    }

    /// Messages that were handed to the broker, and neither settled nor put aside: outstanding ones, and those that are to be tried
    /// again.
    pub fn in_flight(&self) -> usize {
        let again = self.refused.len() + self.nacks.waiting();
        self.outstanding + again + self.suspects.waiting() + self.forbidden.waiting()
    }

    /// Whether messages that are not on their way may be with the broker all the same, and are sent again: it nacked them, which
    /// other queues took, or it closed their channel.
    pub fn may_repeat(&self) -> bool {
        self.suspects.waiting() > 0 || self.nacks.shown().is_some()
    }

    /// The first unroutable message that holds everything up, if one does.
    pub fn halted_by(&self) -> Option<&Message> {
        if self.unroutable == 0 {
            return None;
        }
        self.entries.iter().find(|entry| entry.unroutable).and_then(|entry| match &entry.item {
            Item::Message { message, .. } => Some(message),
            Item::Invalid(_) | Item::Settled { .. } => None,
        })
    }

    /// The first message that the broker is known to refuse, and that holds up everything behind it.
    pub fn forbidden(&self) -> Option<PublishTag> {
        self.forbidden.first().map(PublishTag)
    }

    /// What waits after a nack; `None` when nothing does.
    pub fn nacked(&self) -> Option<Nacked<'_>> {
        self.nacks.shown()
    }

    /// When the next message that is to be tried again is due, as far as time alone decides.
    pub fn next_again(&self, now: Instant) -> Option<Instant> {
        if self.forbidden.is_out() {
            return None;
        }
        if self.forbidden.is_due(now) {
            return self.forbidden.next_again().filter(|_| self.outstanding == 0);
        }
        let refused = self.refused.first().map(|(again_at, _)| *again_at);
        // Others wait for their answers.
        let refused = refused.filter(|_| !self.has_suspects() && !self.suspects.are_out());
        refused.into_iter().chain(self.forbidden.next_again()).min()
    }

    /// Of the oldest message that was handed over and is not settled (or row that is parking): when it was committed, and when
    /// it was first handed over.
    pub fn oldest_unconfirmed(&self) -> Option<(Timestamp, Instant)> {
        let oldest = self.entries.front()?;
        Some((oldest.item.committed_at(), oldest.first_out?))
    }

    /// When the message that has waited longest for the broker's answer was handed over.
    pub fn oldest_outstanding(&self) -> Option<Instant> {
        self.outstanding_since.front().map(|(_, at)| *at)
    }

    /// The message that has waited longest for the broker's answer.
    pub fn longest_unanswered(&self) -> Option<&Message> {
        let &(tag, _) = self.outstanding_since.front()?;
        self.message(PublishTag(tag))
    }

    /// Whether a message was confirmed that was handed over no earlier than the one that has waited longest for its answer.
    pub fn is_overtaken(&self) -> bool {
        self.oldest_outstanding().is_some_and(|oldest| self.answered_to >= Some(oldest))
    }

    /// Where the messages stand that the broker has not answered yet.
    pub fn unanswered(&self) -> BTreeSet<Position> {
        let outstanding =
            self.entries.iter().filter(|entry| matches!(entry.state, EntryState::Outstanding { .. }));
        outstanding.map(|entry| entry.item.position()).collect()
    }

    /// A message that is not settled.
    pub fn message(&self, PublishTag(tag): PublishTag) -> Option<&Message> {
        let index = tag.checked_sub(self.first_tag)?;
        match &self.entries.get(index as usize)?.item {
            Item::Message { message, .. } => Some(message),
            Item::Invalid(_) | Item::Settled { .. } => None,
        }
    }

    /// Behind one that stays unanswered, others may be answered and tried again for as long as it takes.
    fn note_outstanding(&mut self, tag: u64, now: Instant) {
        if self.outstanding_since.len() > 2 * self.entries.len() {
            let mut noted = std::mem::take(&mut self.outstanding_since);
            noted.retain(|(tag, at)| self.is_unanswered(*tag, *at));
            self.outstanding_since = noted;
        }
        self.outstanding_since.push_back((tag, now));
    }

    /// Whether what was handed over at that time is not answered.
    fn is_unanswered(&self, tag: u64, handed_over: Instant) -> bool {
        let index = tag.checked_sub(self.first_tag).map(|index| index as usize);
        let entry = index.and_then(|index| self.entries.get(index));
        matches!(entry, Some(Entry { state: EntryState::Outstanding { at }, .. }) if *at == handed_over)
    }

    /// Keeps the front of `outstanding_since` one that is not answered.
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
