//! Subscriptions while outboxd runs: a look at their queues now and then, and at once when a message comes back that one of them
//! should have got.
//!
//! Subscriptions belong to the process and not to a source, so there is one task for all sources. It has a connection of its own:
//! a queue that is gone closes the channel that asks for it, and no message may be on that.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use super::{Shutdown, deadline::sleep_until};
use crate::{
    admin::SubscriptionReporter,
    ledger::PublishTag,
    message::{Message, Timestamp},
    rabbitmq::cures,
};
use amqp_publisher::{
    BrokerError, PublisherOptions,
    subscriptions::{Look, QueueState, SubscriptionWatch},
};
use process::{backoff::Backoff, clock::now};

/// Interval of the looks that nobody asked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// At least so long between two looks, however many messages come back.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Time that a message that came back waits for a look before policy has it.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Shown in RabbitMQ's management.
const CONNECTION_NAME: &str = "outboxd subscriptions";

/// Looks at the subscriptions of `options` until `shutdown`, declares anew what is gone, and says what was lost.
pub async fn watch_subscriptions(
    options: PublisherOptions,
    report: SubscriptionReporter,
    mut shutdown: Shutdown,
) {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    let mut told = false;
    loop {
        let attempt = backoff.attempts() as usize;
        // Priorities, of each wait in here: (1) being asked to end; (2) the broker, or the timer.
        let connected = tokio::select! {
            biased;
            _ = shutdown.requested() => return,
            connected = Look::connect(&options.connection, CONNECTION_NAME, attempt) => connected,
        };
        let lost = match connected {
            Ok(mut look) => tokio::select! {
                biased;
                _ = shutdown.requested() => return look.close().await,
                lost = keep_looking(&mut look, &options, &report, || {
                    backoff.reset();
                    told = false;
                }) => lost,
            },
            Err(error) => error,
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                error = cures::explain(&lost),
                "the queues of subscriptions cannot be looked at, so one that is deleted meanwhile goes unnoticed until they can; trying again"
            );
        }
        let wait = now() + backoff.next_wait();
        tokio::select! {
            biased;
            _ = shutdown.requested() => return,
            () = sleep_until(Some(wait)) => {}
        }
    }
}

/// Looks now and again, until the connection is lost.
async fn keep_looking(
    look: &mut Look,
    options: &PublisherOptions,
    report: &SubscriptionReporter,
    mut looked: impl FnMut(),
) -> BrokerError {
    loop {
        let question = options.watch.asked();
        match look.look(&options.topology, &options.watch).await {
            Ok(states) => tell(&options.watch, report, states),
            Err(lost) => return lost,
        }
        looked();
        options.watch.answer(question);
        let (pause, next) = (now() + LOOK_PAUSE, now() + LOOK_INTERVAL);
        let asked = async {
            sleep_until(Some(pause)).await;
            options.watch.until_asked().await;
        };
        // Priorities: (1) the connection's end; (2) somebody who asks for a look; (3) the next look that nobody asked for.
        tokio::select! {
            biased;
            lost = look.idle() => return lost,
            () = asked => {}
            () = sleep_until(Some(next)) => {}
        }
    }
}

fn tell(watch: &SubscriptionWatch, report: &SubscriptionReporter, states: Vec<(String, QueueState)>) {
    for (queue, last_seen) in watch.drain_lost() {
        let since = Timestamp::from(last_seen).to_string();
        report.recreated(&queue, SystemTime::now());
        tracing::error!(
            queue,
            last_seen = since,
            "the queue of a subscription was deleted: RabbitMQ dropped the messages that it held, and what was published since then \
             did not reach it; it is declared anew. `outboxd replay --source NAME --since {since}` publishes rows again that the \
             outbox table still has"
        );
    }
    for (queue, state) in states {
        match state {
            QueueState::Present | QueueState::DeclaredAnew => report.present(&queue),
            QueueState::Missing(error) => report.missing(&queue, cures::explain_declare(&error)),
            QueueState::Unknown(error) => tracing::debug!(queue, %error, "a queue cannot be looked at"),
        }
    }
}

/// Messages of one source that came back though a subscription should have got them.
#[derive(Default)]
pub(super) struct Returns {
    watch: SubscriptionWatch,
    looked_into: HashMap<PublishTag, LookedInto>,
}

struct LookedInto {
    question: u64,
    since: Instant,
    /// The look had ended when it was sent the last time.
    was_answered: bool,
}

impl Returns {
    pub(super) fn new(watch: SubscriptionWatch) -> Self {
        Self { watch, looked_into: HashMap::new() }
    }

    /// Tells whether to send a returned message again, because the subscriptions are being looked at; otherwise policy has it.
    pub(super) fn sends_again(&mut self, tag: PublishTag, message: &Message) -> bool {
        if !self.watch.expects(&message.amqp.exchange, &message.amqp.routing_key) {
            return false;
        }
        let answered = self.watch.answered();
        let Some(looked_into) = self.looked_into.get_mut(&tag) else {
            let question = self.watch.ask();
            self.looked_into.insert(tag, LookedInto { question, since: now(), was_answered: false });
            return true;
        };
        let is_patient = now().saturating_duration_since(looked_into.since) < LOOK_PATIENCE;
        if looked_into.was_answered || !is_patient {
            self.looked_into.remove(&tag);
            return false;
        }
        looked_into.was_answered = answered >= looked_into.question;
        true
    }

    /// A message got through, or policy has it.
    pub(super) fn forget(&mut self, tag: PublishTag) {
        if !self.looked_into.is_empty() {
            self.looked_into.remove(&tag);
        }
    }
}
