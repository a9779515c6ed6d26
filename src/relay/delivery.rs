//! The outgoing half of a source: ledger, publisher and parking writer, and the policies for the broker's answers.
//!
//! Does not know where rows come from; both the backlog and the stream use it. Owns the ledger: callers pass rows in, report how
//! far WAL has been read, and ask for the settled position.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Fault, OnInvalid, OnNack, OnUnroutable, RelayOptions, backoff,
    broker::Publisher,
    database::Database,
    deadline::sleep_until,
    fence::Fencing,
    mishap::{self, NackWatch, Overdue, Stalled},
    subscriptions::Returns,
    window::WindowShare,
};
use crate::{
    admin::{Reporter, SourceState, Unconfirmed},
    ledger::{Due, Ledger, Limits, Progress, PublishTag, Refusal, Settled},
    message::{
        InvalidReason, InvalidRow, KeptRow, Mapper, Message, OutboxRow, ParkReason, ParkedRow, Timestamp,
    },
    parking::writer::{Batch, ParkingWriter},
    position::{Lsn, Position},
    rabbitmq::cures,
};
use amqp_publisher::{
    Fence, Refused,
    publisher::{Outcome, PublisherEvent},
    subscriptions::SubscriptionWatch,
};
use process::clock::now;

/// Number of failed turns in a row after which messages of an exchange and routing key are parked, with `delivery.on_nack =
/// "park"`.
const NACKS_BEFORE_PARKING: u32 = 8;

/// Fraction of `confirm_timeout` after which a missing confirm is reported, if other messages are confirmed.
const STALLED_AFTER: u32 = 3;

/// Result of a drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Every published message is settled, and PostgreSQL knows the position.
    Clean,
    /// The drain timeout passed first, or messages were confirmed behind an unroutable or refused one.
    Unfinished {
        /// Largest number of messages that will be published again.
        messages: usize,
        /// Reason for the delay, for an operator.
        why: String,
    },
}

/// State that a delivery leaves to the next one.
pub(crate) struct Left {
    pub(crate) settled: Settled,
    /// The broker may have messages that are not confirmed.
    pub(crate) unconfirmed: bool,
    /// Positions of messages that the broker has not answered.
    pub(crate) unanswered: BTreeSet<Position>,
}

/// Owns every message that is on its way to the broker.
pub(crate) struct Delivery<'a, D: Database, P> {
    ledger: Ledger,
    share: WindowShare,
    publisher: P,
    parking: ParkingWriter<D>,
    returns: Returns,
    /// Number of rows that policy parked.
    parked: u64,
    /// Number of rows that policy gave up.
    left_out: u64,
    options: &'a RelayOptions,
    report: &'a Reporter,
    /// Messages of this connection that the metric counts as published.
    counted_published: u64,
    /// State to show while nothing is wrong.
    healthy: SourceState,
    fencing: Fencing,
    /// The broker's reason for blocking the connection.
    blocked: Option<String>,
    /// Reasons why the broker refuses these messages.
    refused: BTreeMap<PublishTag, String>,
    nacks: NackWatch,
    /// Messages whose missing confirms ended an earlier connection.
    stalled: Option<Stalled>,
    /// Earliest start of confirm deadlines. A blocked broker confirms nothing, and the time of the block does not count.
    patience_from: Instant,
}

impl<'a, D: Database, P: Publisher> Delivery<'a, D, P> {
    pub(crate) fn new(
        publisher: P,
        settled: Settled,
        options: &'a RelayOptions,
        report: &'a Reporter,
        parking: ParkingWriter<D>,
    ) -> Self {
        // Messages that were in flight on an earlier connection are not in flight any more.
        report.in_flight(0);
        report.nacked_waiting(None);
        report.oldest_unconfirmed(None);
        let limits = Limits { messages: options.in_flight_max, bytes: options.in_flight_bytes_max };
        Self {
            ledger: Ledger::new(options.ordering, limits, settled),
            share: options.window.share(),
            publisher,
            parking,
            returns: Returns::default(),
            parked: 0,
            left_out: 0,
            counted_published: 0,
            options,
            report,
            healthy: SourceState::Connecting,
            fencing: Fencing::Open,
            blocked: None,
            refused: BTreeMap::new(),
            nacks: NackWatch::default(),
            stalled: None,
            patience_from: now(),
        }
    }

    /// Sets the subscriptions to check. A message that is returned although a subscription should have got it is sent again after a
    /// check; then policy applies.
    pub(crate) fn watch(&mut self, subscriptions: SubscriptionWatch) {
        self.returns = Returns::new(subscriptions);
    }

    /// Asks for the fence `queue`. No row is admitted and nothing is published until the broker grants it, or refuses it to this
    /// user.
    pub(crate) fn fence(&mut self, queue: &str) {
        self.fencing = Fencing::Asked;
        self.publisher.fence(queue);
    }

    /// Sets the messages that an earlier connection left unconfirmed. Their confirm deadline is longer, and the source reports them
    /// until they are settled.
    pub(crate) fn expect(&mut self, stalled: Option<Stalled>) {
        self.stalled = stalled;
    }

    /// Sets the state that is shown while nothing is wrong.
    pub(crate) fn enter(&mut self, state: SourceState) {
        self.healthy = state;
        self.show_state();
    }

    /// Returns whether another row may be admitted. If not, the caller stops reading.
    pub(crate) fn has_room(&self) -> bool {
        self.share.has_room(&self.ledger) && self.blocked.is_none() && matches!(self.fencing, Fencing::Open)
    }

    /// Admits a row after all others. [`next`](Self::next) publishes its message, marked if `replayed`. A row that no message can
    /// be made of is parked or left out, as policy says.
    ///
    /// # Errors
    ///
    /// [`InvalidRow`] if policy halts for it.
    pub(crate) fn admit(
        &mut self,
        mapper: &Mapper,
        row: OutboxRow,
        replayed: bool,
    ) -> Result<(), InvalidRow> {
        let (row, kept) = if self.options.parks() {
            let kept = mapper.keep(row);
            (kept.row().clone(), Some(kept))
        } else {
            (row, None)
        };
        let policy = self.options.on_invalid;
        match (self.message(mapper, row, replayed), kept) {
            (Ok(message), Some(kept)) => self.ledger.push_kept(message, kept),
            (Ok(message), None) => self.ledger.push(message),
            (Err(invalid), Some(kept)) if policy == OnInvalid::Park => {
                let reason = ParkReason::invalid(&invalid);
                self.ledger.push_invalid(ParkedRow { kept: Arc::new(kept), reason });
            }
            (Err(invalid), _) if policy == OnInvalid::LeaveOut => {
                self.left_out += 1;
                tracing::warn!(source = self.report.name(), "left out a row: {invalid}");
            }
            (Err(invalid), _) => return Err(invalid),
        }
        Ok(())
    }

    fn message(&self, mapper: &Mapper, row: OutboxRow, replayed: bool) -> Result<Message, InvalidRow> {
        let mut message = mapper.message(row)?;
        if replayed {
            message.mark_replayed();
        }
        match self.publisher.check(&message) {
            Ok(()) => Ok(message),
            Err(reason) => Err(InvalidRow {
                position: message.position,
                id: Some(message.id().to_owned()),
                reason: InvalidReason::Unsendable { reason },
            }),
        }
    }

    /// Number of rows that are parked.
    pub(crate) fn parked(&self) -> u64 {
        self.parked
    }

    /// Number of rows given up: returned or invalid ones, neither published nor parked.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Returns whether a row is already settled. See [`Ledger::push_settled`].
    pub(crate) fn skips_settled(&mut self, position: Position, committed_at: Timestamp) -> bool {
        self.ledger.push_settled(position, committed_at)
    }

    /// Raises the watermark. See [`Ledger::advance_watermark`].
    pub(crate) fn advance_watermark(&mut self, lsn: Lsn) {
        self.ledger.advance_watermark(lsn);
    }

    /// Returns the settled position.
    pub(crate) fn progress(&self) -> Progress {
        self.ledger.progress()
    }

    /// Number of rows that are admitted and not settled.
    pub(crate) fn unsettled(&self) -> usize {
        self.ledger.len()
    }

    /// Returns whether the broker owes an answer.
    pub(crate) fn awaits_answers(&self) -> bool {
        self.ledger.outstanding() > 0
    }

    /// Returns whether anything can still settle without help from outside.
    pub(crate) fn can_settle(&self) -> bool {
        match (self.ledger.halted_by(), self.ledger.forbidden()) {
            (None, None) => !self.ledger.is_empty(),
            _ => self.ledger.outstanding() + self.ledger.parking() > 0,
        }
    }

    /// Returns whether an end at this point would repeat settled rows: an earlier connection settled a transaction in part, or rows
    /// ahead of others, and these rows have not all arrived again.
    pub(crate) fn is_mid_transaction(&self) -> bool {
        self.ledger.expects_settled() || self.ledger.is_empty() && self.ledger.progress().is_mid_transaction()
    }

    /// State that an end at this point leaves behind.
    pub(crate) fn left(&self) -> Left {
        let settled = self.ledger.settled();
        let half_done = settled.progress.is_mid_transaction() || !settled.ahead.is_empty();
        let unconfirmed = self.can_settle() || half_done || self.ledger.may_repeat();
        Left { settled, unconfirmed, unanswered: self.ledger.unanswered() }
    }

    /// Result of a drain that ends at this point. `settled`: the drain was not cut short.
    pub(crate) fn drained(&self, settled: bool) -> Drained {
        let ahead = self.ledger.settled().ahead.len();
        if settled && ahead == 0 && !self.ledger.may_repeat() {
            return Drained::Clean;
        }
        Drained::Unfinished { messages: ahead.max(self.ledger.len()), why: mishap::undrained(&self.ledger) }
    }

    /// Publishes what may go out, then waits for one event: answers of the broker, parked rows, or a timer. Pending for ever while
    /// there is nothing to wait for. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Fault`] that ends the attempt: of the broker, of parking, or a confirm that did not arrive in time.
    pub(crate) async fn next(&mut self) -> Result<(), Fault> {
        self.count_published();
        self.hand_over_due();
        let read_to = self.ledger.read_to();
        let wake = [self.confirm_deadline(), self.stall_deadline(), self.ledger.next_again(now())];
        let wake = wake.into_iter().flatten().min();
        // Priorities: (1) the broker's answers; (2) parked rows; (3) the timer. Every turn looks at the clock anyway.
        tokio::select! {
            biased;
            event = self.publisher.next() => {
                self.count_published();
                self.apply(event?);
            }
            parked = self.parking.next(read_to) => match parked? {
                Some(batch) => self.settle_parked(&batch),
                None => self.show_state(),
            },
            () = sleep_until(wake) => self.show_state(),
        }
        match self.confirm_deadline() {
            Some(deadline) if deadline <= now() => {
                let after = self.patience();
                let what = Overdue::of(&self.ledger);
                Err(Fault::ConfirmTimeout { after, what })
            }
            _ => Ok(()),
        }
    }

    /// Applies the broker's events and publishes nothing. Pending for ever without events. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Fault`] of the broker's side.
    pub(crate) async fn idle(&mut self) -> Result<(), Fault> {
        let event = self.publisher.next().await;
        self.count_published();
        self.apply(event?);
        Ok(())
    }

    /// Hands over what may go out to the publisher and the parking writer. The publisher writes its frames when it is polled.
    fn hand_over_due(&mut self) {
        self.share.update(&self.ledger);
        let now = now();
        let mut is_new = false;
        while let Some((tag, due)) = self.ledger.next_due(now) {
            match due {
                Due::Publish(message) => {
                    self.publisher.publish(tag, message);
                    is_new = true;
                }
                Due::Park(row) => self.parking.admit(tag, row),
            }
        }
        if is_new {
            self.report_in_flight();
        }
    }

    /// Counts what the publisher has published since the last call, in this call or in one that was cancelled.
    fn count_published(&mut self) {
        let published = self.publisher.published();
        self.report.published(published - self.counted_published);
        self.counted_published = published;
    }

    fn report_in_flight(&self) {
        self.report.in_flight(self.ledger.in_flight());
        self.report.oldest_unconfirmed(self.ledger.oldest_unconfirmed().map(|(committed_at, first_out)| {
            Unconfirmed { committed: committed_at.into(), published: first_out }
        }));
    }

    fn confirm_deadline(&self) -> Option<Instant> {
        if self.blocked.is_some() {
            return None;
        }
        let oldest = self.ledger.oldest_outstanding()?;
        Some(oldest.max(self.patience_from) + self.patience())
    }

    /// Longest wait for the longest unanswered message.
    fn patience(&self) -> Duration {
        let RelayOptions { confirm_timeout, .. } = *self.options;
        let position = self.ledger.longest_unanswered().map(|message| message.position);
        let stalled = self.stalled.as_ref().filter(|stalled| position.is_some_and(|at| stalled.has(at)));
        stalled.map_or(confirm_timeout, |stalled| stalled.patience(confirm_timeout))
    }

    /// Time when a missing confirm is reported. `None` if that time has passed.
    fn stall_deadline(&self) -> Option<Instant> {
        self.stalls_from().filter(|from| self.ledger.is_overtaken() && *from > now())
    }

    fn stalls_from(&self) -> Option<Instant> {
        let oldest = self.ledger.oldest_outstanding().filter(|_| self.blocked.is_none())?;
        Some(oldest.max(self.patience_from) + self.options.confirm_timeout / STALLED_AFTER)
    }

    /// Describes a missing confirm, once it is late.
    fn stall(&self) -> Option<String> {
        let message = self.ledger.longest_unanswered()?;
        let stalls_now = self.ledger.is_overtaken() && self.stalls_from().is_some_and(|from| from <= now());
        if stalls_now {
            return Some(mishap::unconfirmed(message, true));
        }
        None
    }

    fn apply(&mut self, event: PublisherEvent) {
        match event {
            PublisherEvent::Outcomes(outcomes) => self.settle(outcomes),
            PublisherEvent::Fence(answer) => self.apply_fence(answer),
            PublisherEvent::ChannelClosed { refused, sent, unsent } => {
                self.channel_closed(refused, &sent, &unsent);
            }
            PublisherEvent::ExchangeRefused { refused, unsent } => {
                if let [first, behind @ ..] = &unsent[..] {
                    self.ledger.give_back(behind);
                    self.apply_refusal(*first, &refused);
                }
            }
            PublisherEvent::ExchangeDeclared { exchange } => {
                tracing::info!(source = self.report.name(), exchange, "declared the exchange of a row");
            }
            PublisherEvent::Blocked { reason } => self.blocked = Some(reason),
            PublisherEvent::Unblocked => {
                self.blocked = None;
                self.patience_from = now();
            }
        }
        self.show_state();
    }

    fn apply_fence(&mut self, answer: Fence) {
        let (fencing, unfenced) = Fencing::answered(answer);
        self.fencing = fencing;
        if let Some(reason) = unfenced {
            self.report.unfenced(reason);
        }
    }

    fn channel_closed(&mut self, refused: Refused, sent: &[PublishTag], unsent: &[PublishTag]) {
        let missed = refused.misses_exchange();
        let guilty = if missed {
            self.ledger.exchange_missed(sent, unsent)
        } else {
            self.ledger.channel_closed(sent, unsent)
        };
        match guilty {
            Some(guilty) => self.apply_refusal(guilty, &refused),
            None if missed && sent.len() == 1 => tracing::warn!(
                source = self.report.name(),
                "RabbitMQ has no exchange for a message any more: outboxd asks for the exchange again and sends the message again; {}",
                sent.first()
                    .and_then(|tag| self.ledger.message(*tag))
                    .map(|message| cures::explain_refused(message, &refused))
                    .unwrap_or_default()
            ),
            None => {
                let Refused::Publish(refusal) = refused else { return };
                tracing::warn!(
                    source = self.report.name(),
                    messages = sent.len(),
                    code = refusal.code,
                    text = refusal.text,
                    "RabbitMQ closed the channel because of one of these messages and does not say which: outboxd sends them again in small \
                     batches to find it, and some may be delivered twice"
                );
            }
        }
        self.report_nacked();
        self.report_in_flight();
    }

    /// Applies policy to a message that the broker refuses.
    fn apply_refusal(&mut self, tag: PublishTag, refused: &Refused) {
        match self.options.on_invalid {
            OnInvalid::Halt => {
                let reason = self.ledger.message(tag).map(|message| mishap::refused(message, refused));
                self.refused.insert(tag, reason.unwrap_or_default());
                self.refuse(tag, Refusal::Forbidden);
            }
            OnInvalid::Park => {
                let (message, row) = self.ledger.park(tag);
                self.park(tag, row, ParkReason::refused(&message, cures::explain_refused(&message, refused)));
            }
            OnInvalid::LeaveOut => {
                self.left_out += 1;
                let message = self.ledger.settle(tag);
                tracing::warn!(
                    source = self.report.name(),
                    message_id = message.id(),
                    position = %message.position,
                    "left out a row: {}",
                    cures::explain_refused(&message, refused)
                );
            }
        }
        self.report_progress();
    }

    fn settle(&mut self, outcomes: Vec<(PublishTag, Outcome)>) {
        let now = Timestamp::now();
        let (mut confirmed, mut nacked, mut returned) = (0, 0, 0);
        for (tag, outcome) in outcomes {
            self.refused.remove(&tag);
            match outcome {
                Outcome::Confirmed => {
                    confirmed += 1;
                    self.returns.forget(tag);
                    let message = self.ledger.settle(tag);
                    self.report.commit_to_confirm(now.since(message.committed_at));
                }
                Outcome::Nacked => {
                    nacked += 1;
                    self.apply_nack(tag);
                }
                Outcome::Returned { .. } => {
                    returned += 1;
                    if self.ledger.message(tag).is_some_and(|message| self.returns.sends_again(tag, message))
                    {
                        self.refuse(tag, Refusal::LookedInto);
                        continue;
                    }
                    match self.options.on_unroutable {
                        OnUnroutable::Halt => self.refuse(tag, Refusal::Unroutable),
                        OnUnroutable::Park => {
                            let (message, row) = self.ledger.park(tag);
                            self.park(tag, row, ParkReason::unroutable(&message));
                        }
                        OnUnroutable::Drop => self.drop_unroutable(tag),
                    }
                }
            }
        }
        self.forget_stalled();
        self.report.confirmed(confirmed);
        self.report.nacked(nacked);
        self.report.returned(returned);
        self.report_progress();
    }

    fn apply_nack(&mut self, tag: PublishTag) {
        let RelayOptions { backoff_min, backoff_max, on_nack, .. } = *self.options;
        let failures_max = if on_nack == OnNack::Park { NACKS_BEFORE_PARKING } else { u32::MAX };
        let again_at = |failures| now() + backoff::delay(backoff_min, backoff_max, failures);
        for given_up in self.ledger.nack(tag, failures_max, again_at) {
            let (message, row) = self.ledger.park_nacked(given_up);
            self.park(given_up, row, ParkReason::nacked(&message));
        }
    }

    fn report_nacked(&mut self) {
        if self.nacks.is_on() || self.ledger.nacked().is_some() {
            self.report.nacked_waiting(self.nacks.look(self.ledger.nacked()));
        }
    }

    fn report_progress(&mut self) {
        self.report_nacked();
        self.report_in_flight();
        let Progress { confirmed, position, .. } = self.ledger.progress();
        if let Some(confirmed) = confirmed {
            self.report.confirmed_position(confirmed.lsn(), position);
        }
    }

    fn forget_stalled(&mut self) {
        if let Some(stalled) = self.stalled.take() {
            self.stalled = stalled.without(&self.ledger.settled());
        }
    }

    fn refuse(&mut self, tag: PublishTag, why: Refusal) {
        let RelayOptions { backoff_min, backoff_max, .. } = *self.options;
        let again_at = |refusals| now() + backoff::delay(backoff_min, backoff_max, refusals);
        self.ledger.refuse(tag, why, again_at);
    }

    fn park(&mut self, tag: PublishTag, kept: Arc<KeptRow>, reason: ParkReason) {
        self.returns.forget(tag);
        self.parking.admit(tag, Arc::new(ParkedRow { kept, reason }));
    }

    fn settle_parked(&mut self, Batch { rows, before }: &Batch) {
        for (tag, row) in rows {
            self.ledger.parked(*tag, *before);
            log_parked(self.report.name(), row);
        }
        self.parked += rows.len() as u64;
        self.report.parked(rows.len() as u64);
        self.report_progress();
        self.show_state();
    }

    fn drop_unroutable(&mut self, tag: PublishTag) {
        self.left_out += 1;
        let message = self.ledger.settle(tag);
        tracing::warn!(
            source = self.report.name(),
            message_id = message.id(),
            exchange = %message.amqp.exchange,
            routing_key = message.amqp.routing_key,
            position = %message.position,
            "dropped an unroutable message (delivery.on_unroutable = \"drop\")"
        );
    }

    fn show_state(&self) {
        match &self.fencing {
            Fencing::Asked => return,
            Fencing::Busy(reason) => return self.report.state(SourceState::Standby, reason),
            // The time in the reason changes with each look.
            Fencing::Taken(reason) => {
                return self.report.state_with_figures(SourceState::Blocked, reason.clone());
            }
            Fencing::Open => {}
        }
        if let Some(reason) = &self.blocked {
            let reason = format!(
                "RabbitMQ blocks publishers: {reason}. Rows wait in the slot. Free memory or disk on RabbitMQ's nodes (rabbitmqctl status \
                 shows alarms); outboxd then goes on by itself"
            );
            self.report.state(SourceState::Blocked, &reason);
        } else if let Some(reason) = self.ledger.forbidden().and_then(|tag| self.refused.get(&tag)) {
            self.report.state(SourceState::Halted, reason);
        } else if let Some(message) = self.ledger.halted_by() {
            self.report.state(SourceState::Halted, mishap::unroutable(message));
        } else if let Some(reason) = self.parking.stuck() {
            self.report.state(SourceState::Halted, reason);
        } else if let Some(reason) = self.stall() {
            self.report.state(SourceState::Blocked, reason);
        } else if let Some(reason) = self.nacks.reason(&self.ledger, self.options.backoff_max) {
            // The figures in the reason change all the time.
            self.report.state_with_figures(SourceState::Blocked, reason);
        } else if let Some(reason) = self.stalled.as_ref().and_then(Stalled::reason) {
            self.report.state(SourceState::Blocked, reason);
        } else {
            self.report.state(self.healthy, "");
        }
    }

    /// Closes the connection to the broker in good order.
    pub(crate) async fn close(self) {
        self.publisher.close().await;
    }
}

fn log_parked(source: &str, ParkedRow { kept, reason }: &ParkedRow) {
    let outline = kept.outline();
    tracing::warn!(
        source,
        message_id = outline.message_id,
        aggregate_type = outline.aggregate_type,
        aggregate_id = outline.aggregate_id,
        position = %kept.row().position,
        cause = %reason.cause,
        "parked a row: {}; `outboxd parked` lists, requeues or discards it",
        reason.text
    );
}

/// Longest wait for the broker to answer the close of a connection.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
