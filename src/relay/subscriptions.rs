//! Subscriptions while outboxd runs. Their queues are checked now and then, and at once when a message is returned that a
//! subscription should have got.
//!
//! Subscriptions belong to the process and not to a source, so one task serves all sources. The task has its own connection:
//! RabbitMQ closes the channel that asks for a missing queue, and messages must not be on that channel.

use std::{
    collections::{BTreeSet, HashMap},
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
    topology::Topology,
};
use process::{backoff::Backoff, clock::now};

/// Interval of regular looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Shortest interval between two looks, however many messages are returned.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Longest time that a returned message waits for a look before policy applies.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Name of the connection in RabbitMQ's management.
const CONNECTION_NAME: &str = "outboxd subscriptions";

/// Checks the subscriptions of `options` until `shutdown`, declares missing queues again, and logs what was lost.
pub async fn watch_subscriptions(
    options: PublisherOptions,
    report: SubscriptionReporter,
    mut shutdown: Shutdown,
) {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    let mut told = false;
    let mut told_in_place = false;
    loop {
        let attempt = backoff.attempts() as usize;
        // Priorities of each wait here: (1) shutdown; (2) the broker, or the timer.
        let connected = tokio::select! {
            biased;
            _ = shutdown.requested() => return,
            connected = Look::connect(&options.connection, CONNECTION_NAME, attempt) => connected,
        };
        let lost = match connected {
            Ok(mut look) => tokio::select! {
                biased;
                _ = shutdown.requested() => return look.close().await,
                lost = keep_looking(&mut look, &options, &report, |states| {
                    backoff.reset();
                    told = false;
                    if !std::mem::replace(&mut told_in_place, true) {
                        tell_in_place(&options.topology, states);
                    }
                }) => lost,
            },
            Err(error) => error,
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                error = cures::explain(&lost),
                "the queues of subscriptions cannot be checked, so a queue that is deleted now is noticed late; trying again"
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

/// Looks again and again, until the connection is lost.
async fn keep_looking(
    look: &mut Look,
    options: &PublisherOptions,
    report: &SubscriptionReporter,
    mut looked: impl FnMut(&[(String, QueueState)]),
) -> BrokerError {
    loop {
        let question = options.watch.asked();
        match look.look(&options.topology, &options.watch).await {
            Ok(states) => {
                looked(&states);
                tell(&options.watch, report, states);
            }
            Err(lost) => return lost,
        }
        options.watch.answer(question);
        let (pause, next) = (now() + LOOK_PAUSE, now() + LOOK_INTERVAL);
        let asked = async {
            sleep_until(Some(pause)).await;
            options.watch.until_asked().await;
        };
        // Priorities: (1) the connection's end; (2) a requested look; (3) the next regular look.
        tokio::select! {
            biased;
            lost = look.idle() => return lost,
            () = asked => {}
            () = sleep_until(Some(next)) => {}
        }
    }
}

/// Logs the topology that the first look finds.
fn tell_in_place(topology: &Topology, states: &[(String, QueueState)]) {
    let in_place = |state: &QueueState| matches!(state, QueueState::Present | QueueState::DeclaredAnew);
    let queues: Vec<&str> =
        states.iter().filter(|(_, state)| in_place(state)).map(|(queue, _)| queue.as_str()).collect();
    if queues.is_empty() {
        return;
    }
    let exchanges: BTreeSet<&str> = topology.subscriptions.iter().map(|one| one.exchange.as_str()).collect();
    tracing::info!(
        queues = queues.join(", "),
        exchanges = Vec::from_iter(exchanges).join(", "),
        declare = topology.declare,
        "the queues of the subscriptions are in place"
    );
}

fn tell(watch: &SubscriptionWatch, report: &SubscriptionReporter, states: Vec<(String, QueueState)>) {
    for (queue, last_seen) in watch.drain_lost() {
        let since = Timestamp::from(last_seen).to_string();
        report.recreated(&queue, SystemTime::now());
        tracing::error!(
            queue,
            last_seen = since,
            "the queue of a subscription was deleted: what it held is lost, and messages published since {since} did not reach it. outboxd \
             declares it again. `outboxd replay --source NAME --since TIME` publishes again the rows that the outbox table still has: choose \
             a TIME before the oldest message that the queue's consumer had not handled, and not after {since}"
        );
    }
    for (queue, state) in states {
        match state {
            QueueState::Present | QueueState::DeclaredAnew => report.present(&queue),
            QueueState::Missing(error) => report.missing(&queue, cures::explain_declare(&error)),
            QueueState::Unknown(error) => tracing::debug!(queue, %error, "a queue could not be checked"),
        }
    }
}

/// Returned messages of one source that a subscription should have got.
#[derive(Default)]
pub(super) struct Returns {
    watch: SubscriptionWatch,
    looked_into: HashMap<PublishTag, LookedInto>,
}

struct LookedInto {
    question: u64,
    since: Instant,
    /// The look had ended before the message was last sent.
    was_answered: bool,
}

impl Returns {
    pub(super) fn new(watch: SubscriptionWatch) -> Self {
        Self { watch, looked_into: HashMap::new() }
    }

    /// Returns whether to send a returned message again, because the subscriptions are being checked. Otherwise policy applies.
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

    /// Forgets a message that is confirmed, parked or dropped.
    pub(super) fn forget(&mut self, tag: PublishTag) {
        if !self.looked_into.is_empty() {
            self.looked_into.remove(&tag);
        }
    }
}
