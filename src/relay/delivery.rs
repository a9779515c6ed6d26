//! The outgoing half of a source: ledger and publisher, and what policy does with the broker's answers.
//!
//! Knows nothing of where rows come from: the backlog and the stream both end here.

use std::time::{Duration, Instant};

use super::{Fault, OnUnroutable, RelayOptions, backoff, broker::Publisher, fence};
use crate::{
    admin::{Reporter, SourceState, Unconfirmed},
    clock::now,
    ledger::{Ledger, Limits, Progress, PublishTag, Refusal},
    outbox::{Message, Timestamp},
    rabbitmq::publisher::{Fence, Outcome, PublisherEvent},
};

/// Owns everything that is on its way to the broker.
pub(super) struct Delivery<'a, P> {
    ledger: Ledger,
    publisher: P,
    options: &'a RelayOptions,
    report: &'a Reporter,
    /// The state to show while nothing is wrong.
    healthy: SourceState,
    /// Another instance may publish: why, as soon as it is known.
    fenced_off: Option<String>,
    /// What the broker gave as its reason to block the connection.
    blocked: Option<String>,
    /// Confirm deadlines count from here at the earliest: a blocked broker confirms nothing, and that is not its silence.
    patience_from: Instant,
}

impl<'a, P: Publisher> Delivery<'a, P> {
    pub(super) fn new(
        publisher: P,
        progress: Progress,
        options: &'a RelayOptions,
        report: &'a Reporter,
    ) -> Self {
        // What an earlier connection had in flight is not any more.
        report.in_flight(0);
        report.oldest_unconfirmed(None);
        let limits = Limits { messages: options.in_flight_max, bytes: options.in_flight_bytes_max };
        Self {
            ledger: Ledger::new(options.ordering, limits, progress),
            publisher,
            options,
            report,
            healthy: SourceState::Connecting,
            fenced_off: None,
            blocked: None,
            patience_from: now(),
        }
    }

    /// Takes the fence `queue`. Until it is ours, or known not to be for this user, no message is taken in and none goes
    /// out.
    pub(super) fn fence(&mut self, queue: &str) {
        self.fenced_off = Some(String::new());
        self.publisher.fence(queue);
    }

    /// From now on `state` is shown while nothing is wrong.
    pub(super) fn enter(&mut self, state: SourceState) {
        self.healthy = state;
        self.show_state();
    }

    /// Whether another message can be taken; when not, the caller stops reading.
    pub(super) fn has_room(&self) -> bool {
        self.ledger.has_room() && self.blocked.is_none() && self.fenced_off.is_none()
    }

    /// Takes a message in, behind all others. It goes out when [`next`](Self::next) is polled.
    pub(super) fn push(&mut self, message: Message) {
        self.ledger.push(message);
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
            Some(_) => self.ledger.published() > 0,
            None => !self.ledger.is_empty(),
        }
    }

    /// Publishes what may go, then waits for one event: answers of the broker, or a time that has come. Pends for
    /// ever while there is nothing to wait for. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<(), Fault> {
        self.publish_due();
        let wake = [self.confirm_deadline(), self.ledger.next_again()].into_iter().flatten().min();
        tokio::select! {
            biased;
            event = self.publisher.next() => self.take(event?),
            () = sleep_until(wake) => {}
        }
        match self.confirm_deadline() {
            Some(deadline) if deadline <= now() => {
                Err(Fault::ConfirmTimeout { after: self.options.confirm_timeout })
            }
            _ => Ok(()),
        }
    }

    /// Notices a broker that goes away while nothing is published yet. Never returns `Ok` but after such news.
    pub(super) async fn idle(&mut self) -> Result<(), Fault> {
        let event = self.publisher.next().await?;
        self.take(event);
        Ok(())
    }

    /// Takes in what the broker says to what it has been sent, and sends nothing more: whoever has the slot now does that.
    /// Cancel-safe.
    pub(super) async fn hear_out(&mut self) {
        while self.ledger.published() > 0 && self.idle().await.is_ok() {}
    }

    fn publish_due(&mut self) {
        let now = now();
        let mut count = 0;
        while let Some((tag, message)) = self.ledger.publish_next(now) {
            self.publisher.publish(tag, message);
            count += 1;
        }
        if count > 0 {
            self.report.published(count);
            self.report_in_flight();
        }
    }

    fn report_in_flight(&self) {
        self.report.in_flight(self.ledger.published());
        self.report.oldest_unconfirmed(
            self.ledger.oldest_unconfirmed().map(|(message, published)| Unconfirmed {
                committed: message.committed_at.into(),
                published,
            }),
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
        self.fenced_off = match answer {
            Fence::Held => None,
            Fence::Busy { text } => Some(fence::busy(&text)),
            Fence::Denied { text } => {
                self.report.unfenced(fence::denied(&text));
                None
            }
        };
    }

    fn settle(&mut self, outcomes: Vec<(PublishTag, Outcome)>) {
        let now = Timestamp::now();
        let (mut confirmed, mut nacked, mut returned) = (0, 0, 0);
        for (tag, outcome) in outcomes {
            match outcome {
                Outcome::Confirmed => {
                    confirmed += 1;
                    let message = self.ledger.settle(tag);
                    self.report.commit_to_confirm(now.since(message.committed_at));
                }
                Outcome::Nacked => {
                    nacked += 1;
                    self.refuse(tag, Refusal::Nacked);
                }
                Outcome::Returned { .. } => {
                    returned += 1;
                    match self.options.on_unroutable {
                        OnUnroutable::Halt => self.refuse(tag, Refusal::Unroutable),
                        OnUnroutable::Drop => self.drop_unroutable(tag),
                    }
                }
            }
        }
        self.report.confirmed(confirmed);
        self.report.nacked(nacked);
        self.report.returned(returned);
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

    fn drop_unroutable(&mut self, tag: PublishTag) {
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
        if let Some(reason) = &self.fenced_off {
            // Not while nothing is known: that takes one question to the broker.
            if !reason.is_empty() {
                self.report.state(SourceState::Standby, reason);
            }
        } else if let Some(reason) = &self.blocked {
            let reason =
                format!("the broker blocks publishers: {reason}; goes on by itself when it unblocks");
            self.report.state(SourceState::Blocked, &reason);
        } else if let Some(message) = self.ledger.halted_by() {
            let reason = format!(
                "message {} at {} is unroutable: no queue is bound to exchange '{}' for routing key '{}'; bind one and \
                 it goes on by itself, or set delivery.on_unroutable = \"drop\"",
                message.message_id, message.position, message.exchange, message.routing_key
            );
            self.report.state(SourceState::Halted, &reason);
        } else {
            self.report.state(self.healthy, "");
        }
    }

    /// Closes the connection to the broker in good order.
    pub(super) async fn close(self) {
        self.publisher.close().await;
    }
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
