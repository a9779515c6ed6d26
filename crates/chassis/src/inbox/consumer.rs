//! Loop around a queue: one message at a time, in the queue's order, each settled before the next.

use std::time::{Duration, Instant};

use tokio::{sync::watch, time::MissedTickBehavior};
use tracing::Instrument;

use super::{Handler, HandlingError, Message, Outcome, apply_once, dead_letters::DeadLetters};
use crate::{
    consumer::{Consumer, ConsumerError, ConsumerOptions, Delivery, Setback, cures, dead_letters::queue_of},
    database::Database,
    health::Health,
    metrics::Metrics,
    trace::{self, TraceContext},
};
use process::{backoff::Backoff, shutdown::Shutdown};

/// Backoff of messages and connections.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Interval of querying the number of waiting messages.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Setbacks in a row without a settled message after which the service is not ready.
const SETBACKS_MAX: u32 = 3;
/// Connections in a row that the broker may end for its own reasons, in addition: a rolling restart ends one for each
/// node.
const FORCED_MAX: u32 = 5;
/// Time for which a message may fail before the service is not ready.
const FAILING_MAX: Duration = Duration::from_secs(10);
/// Life of a connection that resets the backoff, also without a message.
const STEADY: Duration = Duration::from_secs(60);
/// Longest header of a relay, and longest key of the table.
const HEADER_BYTES_MAX: usize = 255;

/// Progress of consuming a queue, as of a moment ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Waiting messages; `None` while the broker cannot be queried.
    pub waiting: Option<u32>,
    /// First message that was delivered and is not settled. Others may have been delivered after it.
    pub head: Option<Head>,
    /// Time at which this connection last saw the queue empty: it held no copy of an older message, and none was in
    /// hand.
    pub empty_at: Option<Instant>,
}

/// Message that is being handled or retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Commit time in seconds since 1970, if the message has one.
    pub committed_at: Option<i64>,
}

/// Reader of a queue's [`Progress`].
pub type ProgressReader = watch::Receiver<Progress>;

/// Queue and its handler.
pub(crate) struct Inbox<H> {
    pub(crate) name: &'static str,
    pub(crate) options: ConsumerOptions,
    pub(crate) database: Database,
    pub(crate) handler: H,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) progress: watch::Sender<Progress>,
}

/// State that outlives a connection.
struct Course {
    backoff: Backoff,
    dead: DeadLetters,
    ends: Ends,
}

/// Ends of connections in a row without a settled message.
#[derive(Debug, Default)]
struct Ends {
    /// Setbacks.
    setbacks: u32,
    /// Ends for the broker's own reasons.
    forced: u32,
}

impl Ends {
    /// Counts an end, and returns the reason why the service is not ready, if there have been too many. An end
    /// without a setback leaves a service that is not ready in that state, with its own reason.
    fn count(&mut self, queue: &str, setback: Option<Setback>, error: &str) -> Option<String> {
        if setback == Some(Setback::Forced) {
            self.forced = self.forced.saturating_add(1);
        }
        let counts = match setback {
            Some(Setback::Forced) => self.forced > FORCED_MAX,
            setback => setback.is_some(),
        };
        self.setbacks = self.setbacks.saturating_add(u32::from(counts));
        self.are_too_many().then(|| match setback.filter(|_| counts) {
            Some(setback) => stuck(queue, self.setbacks, setback, error),
            None => format!(
                "queue {queue} is not consumed ({error}), after consuming it had failed {} times in a row",
                self.setbacks
            ),
        })
    }

    fn are_too_many(&self) -> bool {
        self.setbacks >= SETBACKS_MAX
    }
}

/// Consumes until `shutdown`. The current message is then settled or left to the next instance. Reconnects for as
/// long as necessary.
pub(crate) async fn consume<H: Handler>(inbox: Inbox<H>, mut shutdown: Shutdown) {
    let queue = inbox.options.subscription.queue.clone();
    let backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    let mut course = Course { backoff, dead: DeadLetters::default(), ends: Ends::default() };
    loop {
        let ended = inbox.session(&mut course, &mut shutdown).await;
        inbox.metrics.disconnected(&queue);
        inbox.progress.send_replace(Progress::default());
        let Err(error) = ended else { return };
        let wait = course.backoff.next_wait();
        let text = cures::explain(&error);
        if let Some(reason) = course.ends.count(&queue, error.setback(), &text) {
            tracing::error!(queue, "{reason}; connecting again in {} ms", wait.as_millis());
            inbox.health.failing(&queue, reason);
        } else {
            tracing::warn!(
                queue,
                error = text,
                "the queue is not consumed; connecting again in {} ms",
                wait.as_millis()
            );
        }
        tokio::select! {
            _ = shutdown.requested() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn stuck(queue: &str, setbacks: u32, last: Setback, error: &str) -> String {
    let dead = queue_of(queue);
    let last = match last {
        Setback::Forced => {
            return format!(
                "queue {queue}: consuming it failed {setbacks} times in a row; at last its connection was ended by the broker or an \
                 operator ({error}), and no message is handled; see in RabbitMQ's log who ends it"
            );
        }
        Setback::Connection => "its connection was lost",
        Setback::Channel => "RabbitMQ closed its channel",
        Setback::Consumer => "RabbitMQ ended its consumer",
        Setback::DeadLetter => {
            return format!(
                "queue {queue}: consuming it failed {setbacks} times in a row; at last a message could not be put aside ({error}). \
                 No message behind it is handled until {dead} takes it"
            );
        }
    };
    format!(
        "queue {queue}: consuming it failed {setbacks} times in a row; at last {last} ({error}), and no message is handled; see \
         RabbitMQ's log. If its first message is the cause, RabbitMQ moves it to {dead} once its deliveries exceed the queue's \
         delivery limit (20 by default since RabbitMQ 4; before, set a policy: docs/services/consumers.md)"
    )
}

impl<H: Handler> Inbox<H> {
    /// Life of one connection. `Ok` when the shutdown was requested.
    async fn session(&self, course: &mut Course, shutdown: &mut Shutdown) -> Result<(), ConsumerError> {
        let attempt = course.backoff.attempts() as usize;
        let connecting = Consumer::connect(&self.options, self.name, attempt);
        let mut consumer = tokio::select! {
            _ = shutdown.requested() => return Ok(()),
            connected = connecting => connected?,
        };
        let queue = &self.options.subscription.queue;
        tracing::info!(queue, "consuming");
        self.metrics.connected(queue);
        let connected_at = Instant::now();
        let mut empty = None;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if !consumer.has_next() {
                self.progress.send_modify(|progress| progress.head = None);
            }
            tokio::select! {
                biased;
                // 1. The shutdown comes first.
                _ = shutdown.requested() => break,
                // 2. The periodic look, which a busy queue must not delay.
                _ = look.tick() => {
                    let begin = Instant::now();
                    let waiting = consumer.waiting().await?;
                    self.metrics.waiting(queue, waiting.queue);
                    self.metrics.dead(queue, waiting.dead);
                    self.metrics.dead_lettered(queue, course.dead.seen(queue, waiting.dead));
                    // A message that was in transit during the look, and not counted, is settled before the next
                    // look.
                    let is_empty = waiting.queue == 0 && !consumer.has_next();
                    let empty_before = std::mem::replace(&mut empty, is_empty.then_some(begin));
                    let mut before = None;
                    self.progress.send_modify(|progress| {
                        before = progress.waiting.replace(waiting.queue);
                        if is_empty && empty_before.is_some() {
                            progress.empty_at = empty_before;
                        }
                    });
                    if before.is_some() {
                        // The connection has lived long enough.
                        course.backoff.reset();
                    }
                    if connected_at.elapsed() >= STEADY {
                        self.proceed(course);
                    }
                }
                // 3. The next message.
                delivery = consumer.next() => {
                    let delivery = delivery?;
                    let head = Head { committed_at: committed_at(&delivery) };
                    self.progress.send_modify(|progress| progress.head = Some(head));
                    match self.settle(&consumer, &delivery, shutdown).await? {
                        None => break,
                        Some(Outcome::Dead) => course.dead.buried(),
                        Some(_) => {}
                    }
                    self.proceed(course);
                }
            }
        }
        // Messages sent ahead return to their place in the queue.
        consumer.close().await;
        Ok(())
    }

    /// Records progress.
    fn proceed(&self, course: &mut Course) {
        course.backoff.reset();
        if std::mem::take(&mut course.ends).are_too_many() {
            self.health.working(&self.options.subscription.queue);
        }
    }

    /// Handles a message until it can be acknowledged; `None` when the shutdown was requested before.
    async fn settle(
        &self,
        consumer: &Consumer,
        delivery: &Delivery,
        shutdown: &mut Shutdown,
    ) -> Result<Option<Outcome>, ConsumerError> {
        let begin = Instant::now();
        let queue = &self.options.subscription.queue;
        let trace = TraceContext::follow(delivery.header(trace::HEADER));
        let span = tracing::info_span!(
            "message",
            trace_id = trace.trace_id(),
            queue,
            message_id = delivery.message_id(),
            event_type = delivery.event_type()
        );
        let settled = async {
            let outcome = match message(delivery, trace) {
                Ok(message) => match self.handle(&message, shutdown).await {
                    Some(handled) => handled,
                    None => return Ok(None),
                },
                Err(error) => Err(error),
            };
            let outcome = match outcome {
                Ok(outcome) => {
                    consumer.ack(delivery).await?;
                    tracing::info!("{outcome}");
                    outcome
                }
                Err(error) => {
                    consumer.bury(delivery, &error.to_string()).await?;
                    tracing::error!(%error, "put into {}", queue_of(queue));
                    Outcome::Dead
                }
            };
            self.metrics.settled(queue, outcome, begin.elapsed());
            Ok(Some(outcome))
        };
        settled.instrument(span).await
    }

    /// Retries until the message has had its effect, or never will (`Err`), or the shutdown is requested (`None`). No
    /// later message is handled meanwhile, which keeps the order.
    async fn handle(
        &self,
        message: &Message,
        shutdown: &mut Shutdown,
    ) -> Option<Result<Outcome, HandlingError>> {
        let queue = &self.options.subscription.queue;
        let begin = Instant::now();
        let handling = format!("{queue}, its first message");
        let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        loop {
            let error = match self.apply(message).await {
                Err(error) if !error.is_permanent() => error,
                settled => {
                    self.health.working(&handling);
                    return Some(settled);
                }
            };
            let wait = backoff.next_wait();
            tracing::warn!(%error, "failed; trying again in {} ms", wait.as_millis());
            self.metrics.retried(queue);
            if begin.elapsed() >= FAILING_MAX {
                self.health.failing(&handling, waits(queue, begin.elapsed(), &error));
            }
            tokio::select! {
                _ = shutdown.requested() => return None,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn apply(&self, message: &Message) -> Result<Outcome, HandlingError> {
        let mut connection = self.database.connection().await?;
        apply_once(&mut connection, &self.options.subscription.queue, message, &self.handler).await
    }
}

fn waits(queue: &str, failing: Duration, error: &HandlingError) -> String {
    format!(
        "queue {queue}: its first message has failed for {} s ({error}); nothing is lost: it is tried again, and the messages \
         behind it wait",
        failing.as_secs()
    )
}

/// Returns the message of a delivery, or the reason why it is none.
pub(crate) fn message(delivery: &Delivery, trace: TraceContext) -> Result<Message, HandlingError> {
    if let Some(why) = delivery.unreadable() {
        return Err(HandlingError::Permanent(format!("it cannot be read: {why}")));
    }
    let missing = |what: &str, why: &str| HandlingError::Permanent(format!("no {what}: {why}"));
    let header = |name: &str| match delivery.header(name) {
        Some(text) if text.len() > HEADER_BYTES_MAX => {
            let what = format!("the header {name} is longer than {HEADER_BYTES_MAX} bytes");
            Err(HandlingError::Permanent(what))
        }
        text => Ok(text.map(str::to_owned)),
    };
    let id = delivery.message_id().filter(|id| !id.is_empty());
    let event_type = delivery.event_type();
    Ok(Message {
        id: id.ok_or_else(|| missing("message_id", "copies could not be recognised"))?.to_owned(),
        event_type: event_type.ok_or_else(|| missing("type", "it says what happened"))?.to_owned(),
        body: delivery.body().to_owned(),
        headers: delivery.text_headers(HEADER_BYTES_MAX),
        source: header("outbox-source")?,
        position: header("outbox-position")?,
        committed_at: committed_at(delivery),
        replayed: delivery.flag("outbox-replayed"),
        trace,
    })
}

fn committed_at(delivery: &Delivery) -> Option<i64> {
    i64::try_from(delivery.timestamp()?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn after_too_many_setbacks_a_service_says_what_keeps_it_from_consuming_now() {
        let mut ends = Ends::default();
        let away = "RabbitMQ cannot be reached";
        assert_eq!(ends.count("orders", None, away), None, "the broker may be away for a while");
        for _ in 1..SETBACKS_MAX {
            assert_eq!(ends.count("orders", Some(Setback::Connection), "lost"), None);
        }
        let reason = ends.count("orders", Some(Setback::Connection), "lost").unwrap();
        assert!(reason.contains("its connection was lost (lost)"), "{reason}");
        let reason = ends.count("orders", None, away).unwrap();
        assert!(reason.contains(away) && reason.contains("3 times in a row"), "{reason}");
        assert!(!reason.contains("lost"), "{reason}");
    }

    #[test]
    fn connections_that_the_broker_ends_again_and_again_make_a_service_not_ready() {
        let mut ends = Ends::default();
        for number in 1..FORCED_MAX + SETBACKS_MAX {
            let reason = ends.count("orders", Some(Setback::Forced), "320");
            assert_eq!(reason, None, "end {number} may be a node's of a rolling restart");
        }
        let reason = ends.count("orders", Some(Setback::Forced), "320").unwrap();
        assert!(reason.contains("ended by the broker or an operator (320)"), "{reason}");
    }

    #[test]
    fn a_service_that_is_stuck_says_what_failed_and_what_to_do() {
        for (setback, what, cure) in [
            (Setback::Connection, "its connection was lost (E)", "delivery limit"),
            (Setback::Channel, "RabbitMQ closed its channel (E)", "delivery limit"),
            (Setback::Consumer, "RabbitMQ ended its consumer (E)", "delivery limit"),
            (Setback::DeadLetter, "a message could not be put aside (E)", "until orders.dead takes it"),
        ] {
            let reason = stuck("orders", 3, setback, "E");
            assert!(reason.contains("queue orders") && reason.contains("3 times in a row"), "{reason}");
            assert!(reason.contains(what) && reason.contains(cure), "{reason}");
        }
    }
}
