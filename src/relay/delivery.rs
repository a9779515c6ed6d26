//! The outgoing half of a source: ledger, publisher and parker, and what policy does with the broker's answers.
//!
//! Knows nothing of where rows come from: the backlog and the stream both end here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Fault, OnInvalid, OnUnroutable, RelayOptions, backoff,
    broker::Publisher,
    database::Database,
    fence::Fencing,
    parker::{Batch, Parker},
    subscriptions::Returns,
    window::Place,
};
use crate::{
    admin::{Reporter, SourceState, Unconfirmed},
    clock::now,
    ledger::{Due, Ledger, Limits, Progress, PublishTag, Refusal, Settled},
    outbox::{
        InvalidReason, InvalidRow, KeptRow, Mapper, Message, OutboxRow, ParkReason, ParkedRow, Timestamp,
    },
    rabbitmq::{
        publisher::{Fence, Outcome, PublisherEvent},
        subscriptions::SubscriptionWatch,
    },
};

/// Owns everything that is on its way to the broker.
pub(super) struct Delivery<'a, D: Database, P> {
    ledger: Ledger,
    place: Place,
    publisher: P,
    parker: Parker<D>,
    returns: Returns,
    /// Rows that policy put aside.
    parked: u64,
    /// Rows that policy gave up.
    left_out: u64,
    options: &'a RelayOptions,
    report: &'a Reporter,
    /// The state to show while nothing is wrong.
    healthy: SourceState,
    fencing: Fencing,
    /// What the broker gave as its reason to block the connection.
    blocked: Option<String>,
    /// Confirm deadlines count from here at the earliest: a blocked broker confirms nothing, and that is not its silence.
    patience_from: Instant,
}

impl<'a, D: Database, P: Publisher> Delivery<'a, D, P> {
    pub(super) fn new(
        publisher: P,
        settled: Settled,
        options: &'a RelayOptions,
        report: &'a Reporter,
        parker: Parker<D>,
    ) -> Self {
        // What an earlier connection had in flight is not any more.
        report.in_flight(0);
        report.oldest_unconfirmed(None);
        let limits = Limits { messages: options.in_flight_max, bytes: options.in_flight_bytes_max };
        Self {
            ledger: Ledger::new(options.ordering, limits, settled),
            place: options.window.place(),
            publisher,
            parker,
            returns: Returns::default(),
            parked: 0,
            left_out: 0,
            options,
            report,
            healthy: SourceState::Connecting,
            fencing: Fencing::Open,
            blocked: None,
            patience_from: now(),
        }
    }

    /// From now on a message that comes back though a subscription should have got it is looked into before policy has it.
    pub(super) fn watch(&mut self, subscriptions: SubscriptionWatch) {
        self.returns = Returns::new(subscriptions);
    }

    /// Takes the fence `queue`. Until it is ours, or known not to be for this user, no message is taken in and none goes
    /// out.
    pub(super) fn fence(&mut self, queue: &str) {
        self.fencing = Fencing::Asked;
        self.publisher.fence(queue);
    }

    /// From now on `state` is shown while nothing is wrong.
    pub(super) fn enter(&mut self, state: SourceState) {
        self.healthy = state;
        self.show_state();
    }

    /// Whether another message can be taken; when not, the caller stops reading.
    pub(super) fn has_room(&self) -> bool {
        self.place.has_room(&self.ledger) && self.blocked.is_none() && matches!(self.fencing, Fencing::Open)
    }

    /// Takes a row in, behind all others: its message goes out when [`next`](Self::next) is polled, with a mark if it is a
    /// replay's. A row that no message can be made of is put aside in its turn, or comes back, as policy says.
    pub(super) fn take_row(
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
        match (self.message(mapper, row), kept) {
            (Ok(mut message), kept) => {
                if replayed {
                    message.mark_replayed();
                }
                match kept {
                    Some(kept) => self.ledger.push_kept(message, kept),
                    None => self.ledger.push(message),
                }
            }
            (Err(invalid), Some(kept)) if policy == OnInvalid::Park => {
                let reason = ParkReason::invalid(&invalid);
                self.ledger.push_invalid(ParkedRow { kept: Arc::new(kept), reason });
            }
            (Err(invalid), _) if policy == OnInvalid::LeaveOut => {
                self.left_out += 1;
                tracing::warn!(source = self.report.name(), "left out: {invalid}");
            }
            (Err(invalid), _) => return Err(invalid),
        }
        Ok(())
    }

    fn message(&self, mapper: &Mapper, row: OutboxRow) -> Result<Message, InvalidRow> {
        let message = mapper.message(row)?;
        match self.publisher.check(&message) {
            Ok(()) => Ok(message),
            Err(reason) => Err(InvalidRow {
                position: message.position,
                id: Some(message.message_id),
                reason: InvalidReason::Unsendable { reason },
            }),
        }
    }

    /// How many rows were put aside, for good.
    pub(super) fn parked(&self) -> u64 {
        self.parked
    }

    /// How many rows were given up: returned or invalid ones, neither published nor parked.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Whether anything in here can still settle without help from outside.
    pub(super) fn can_settle(&self) -> bool {
        match self.ledger.halted_by() {
            Some(_) => self.ledger.published() + self.ledger.parking() > 0,
            None => !self.ledger.is_empty(),
        }
    }

    /// Sends off what may go, then waits for one event: answers of the broker, rows that are parked, or a time that has
    /// come. Pends for ever while there is nothing to wait for. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<(), Fault> {
        self.send_due();
        let read_to = self.ledger.read_to();
        let wake = [self.confirm_deadline(), self.ledger.next_again()].into_iter().flatten().min();
        tokio::select! {
            biased;
            event = self.publisher.next() => self.take(event?),
            parked = self.parker.next(read_to) => match parked? {
                Some(batch) => self.settle_parked(&batch),
                None => self.show_state(),
            },
            () = sleep_until(wake) => {}
        }
        match self.confirm_deadline() {
            Some(deadline) if deadline <= now() => {
                Err(Fault::ConfirmTimeout { after: self.options.confirm_timeout })
            }
            _ => Ok(()),
        }
    }

    /// Takes in what the broker says, and sends nothing. Pends for ever while it says nothing. Cancel-safe.
    pub(super) async fn idle(&mut self) -> Result<(), Fault> {
        let event = self.publisher.next().await?;
        self.take(event);
        Ok(())
    }

    fn send_due(&mut self) {
        self.place.note(&self.ledger);
        let now = now();
        let mut count = 0;
        while let Some((tag, due)) = self.ledger.next_due(now) {
            match due {
                Due::Publish(message) => {
                    self.publisher.publish(tag, message);
                    count += 1;
                }
                Due::Park(row) => self.parker.park(tag, row),
            }
        }
        if count > 0 {
            self.report.published(count);
            self.report_in_flight();
        }
    }

    fn report_in_flight(&self) {
        self.report.in_flight(self.ledger.published());
        self.report.oldest_unconfirmed(
            self.ledger
                .oldest_unconfirmed()
                .map(|(committed_at, published)| Unconfirmed { committed: committed_at.into(), published }),
        );
    }

    fn confirm_deadline(&self) -> Option<Instant> {
        if self.blocked.is_some() {
            return None;
        }
        let oldest = self.ledger.oldest_published()?;
        Some(oldest.max(self.patience_from) + self.options.confirm_timeout)
    }

    fn take(&mut self, event: PublisherEvent) {
        match event {
            PublisherEvent::Outcomes(outcomes) => self.settle(outcomes),
            PublisherEvent::Fence(answer) => self.take_fence(answer),
            PublisherEvent::Blocked { reason } => self.blocked = Some(reason),
            PublisherEvent::Unblocked => {
                self.blocked = None;
                self.patience_from = now();
            }
        }
        self.show_state();
    }

    fn take_fence(&mut self, answer: Fence) {
        let (fencing, unfenced) = Fencing::answered(answer);
        self.fencing = fencing;
        if let Some(reason) = unfenced {
            self.report.unfenced(reason);
        }
    }

    fn settle(&mut self, outcomes: Vec<(PublishTag, Outcome)>) {
        let now = Timestamp::now();
        let (mut confirmed, mut nacked, mut returned) = (0, 0, 0);
        for (tag, outcome) in outcomes {
            match outcome {
                Outcome::Confirmed => {
                    confirmed += 1;
                    self.returns.forget(tag);
                    let message = self.ledger.settle(tag);
                    self.report.commit_to_confirm(now.since(message.committed_at));
                }
                Outcome::Nacked => {
                    nacked += 1;
                    self.refuse(tag, Refusal::Nacked);
                }
                Outcome::Returned { .. } => {
                    returned += 1;
                    if self
                        .ledger
                        .published_message(tag)
                        .is_some_and(|message| self.returns.sends_again(tag, message))
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
        self.report.confirmed(confirmed);
        self.report.nacked(nacked);
        self.report.returned(returned);
        self.report_progress();
    }

    fn report_progress(&self) {
        self.report_in_flight();
        let Progress { confirmed, position, .. } = self.ledger.progress();
        if let Some(confirmed) = confirmed {
            self.report.confirmed_position(confirmed.lsn(), position);
        }
    }

    fn refuse(&mut self, tag: PublishTag, why: Refusal) {
        let RelayOptions { backoff_min, backoff_max, .. } = *self.options;
        let again_at = |refusals| now() + backoff::delay(backoff_min, backoff_max, refusals);
        self.ledger.refuse(tag, why, again_at);
    }

    fn park(&mut self, tag: PublishTag, kept: Arc<KeptRow>, reason: ParkReason) {
        self.parker.park(tag, Arc::new(ParkedRow { kept, reason }));
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
            message_id = message.message_id,
            exchange = %message.exchange,
            routing_key = message.routing_key,
            position = %message.position,
            "dropped an unroutable message (delivery.on_unroutable = \"drop\")"
        );
    }

    fn show_state(&self) {
        match &self.fencing {
            Fencing::Asked => return,
            Fencing::Busy(reason) => return self.report.state(SourceState::Standby, reason),
            Fencing::Open => {}
        }
        if let Some(reason) = &self.blocked {
            let reason =
                format!("the broker blocks publishers: {reason}; goes on by itself when it unblocks");
            self.report.state(SourceState::Blocked, &reason);
        } else if let Some(message) = self.ledger.halted_by() {
            let reason = format!(
                "message {} at {} is unroutable: no queue is bound to exchange '{}' for routing key '{}'; bind one and \
                 it goes on by itself, or set delivery.on_unroutable = \"park\" or \"drop\" and restart",
                message.message_id, message.position, message.exchange, message.routing_key
            );
            self.report.state(SourceState::Halted, &reason);
        } else if let Some(reason) = self.parker.stuck() {
            self.report.state(SourceState::Halted, reason);
        } else {
            self.report.state(self.healthy, "");
        }
    }

    /// Closes the connection to the broker in good order.
    pub(super) async fn close(self) {
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
        "parked a message: {}; `outboxd parked` lists, requeues or discards it",
        reason.text
    );
}

/// Waits until `deadline`, or for ever.
pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// How long to wait for the broker to answer a polite goodbye.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
