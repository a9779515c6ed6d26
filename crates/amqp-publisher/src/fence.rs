//! Fence: a lock that only one connection holds at a time. Only the holder publishes.
//!
//! The fence is an exclusive queue. RabbitMQ keeps such a queue as long as the connection that declared it, and
//! answers everybody else with 405 RESOURCE_LOCKED (AMQP 0-9-1 reference, queue.declare "exclusive";
//! <https://www.rabbitmq.com/docs/queues#exclusive-queues>). A connection that gets the queue therefore knows that
//! the previous holder's connection is gone, with every frame that a frozen process, a kernel or a network may still
//! hold. Messages that somebody publishes into the queue are skipped.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use amq_protocol::{
    protocol::{AMQPClass, basic, queue},
    types::{AMQPValue, FieldTable},
};
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    connection::{CallError, ChannelId, Connection, is_answer, open_channel, unasked},
    error::{BrokerError, DeclareError, Loss},
    refusal::{Reason, Refusal, reply},
    short_string::short,
};

/// Channel of the fence. A refusal closes it, so nothing else uses it.
const CHANNEL: ChannelId = 3;
/// Retry interval while another connection has the fence. The broker logs a failed channel for each retry.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Retry interval after the time of a takeover has passed.
const TAKEN_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Heartbeats within which the broker ends the connection of a client that hangs: two to three.
const TAKEOVER_HEARTBEATS: u32 = 3;
/// Margin for a takeover on a busy broker.
const TAKEOVER_MARGIN: Duration = Duration::from_secs(5);
/// Interval between looks at the queue's owner, which may have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Time after which an unanswered look is reported. RabbitMQ waits for a minute for the process of a queue whose node
/// is down.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// RabbitMQ's default heartbeat, for a client that asks for none.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(60);

/// State of a requested fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Held by this connection until it ends. No other connection publishes.
    Held,
    /// Another connection holds the fence. The request is repeated until another state is reported.
    Busy {
        /// The broker's text, which names the queue.
        text: String,
    },
    /// The queue has been taken for longer than a takeover takes. The request is repeated until another state is
    /// reported, and this one is reported again each minute, because the owner may have changed.
    Taken {
        /// The queue.
        queue: String,
        /// Owner, as far as AMQP shows it.
        by: FenceOwner,
        /// Time since the first refused request.
        for_at_least: Duration,
        /// The broker's text, which names the queue and the virtual host.
        text: String,
    },
    /// Held by this connection, but the user may not read the queue, so the broker does not report its
    /// deletion.
    Unwatched {
        /// The broker's text, which names the queue and the user.
        text: String,
    },
    /// There is no fence: the user may not configure the queue, or a limit of queues is reached.
    Denied {
        /// The broker's refusal, which names the queue, and the user or the limit.
        refusal: Refusal,
    },
}

/// Owner of a fence's queue. AMQP does not show which connection declared an exclusive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceOwner {
    /// An open connection: the queue is exclusive.
    Connection,
    /// A connection of a node that is down or cut off. The broker has a record of the queue, but no process answers
    /// for it. RabbitMQ keeps the record until that node is back or removed (4.2 with Khepri, 4.3).
    Unreachable,
    /// No connection: the queue is not exclusive, so no publisher has declared it. It stays until somebody deletes
    /// it.
    Nobody {
        /// Consumers of the queue.
        consumers: u32,
        /// Messages in it.
        messages: u32,
    },
}

impl FenceOwner {
    /// Returns the owner that a refused look shows; `None` when the queue does not exist or may not be looked at.
    fn of(refusal: &Refusal) -> Option<Self> {
        match refusal.reason() {
            Reason::Locked => Some(Self::Connection),
            Reason::Unavailable => Some(Self::Unreachable),
            _ => None,
        }
    }

    /// Describes the owner.
    pub fn whose(&self) -> String {
        match self {
            Self::Connection => "another connection".to_owned(),
            Self::Unreachable => "a connection of a node that is down or cut off".to_owned(),
            Self::Nobody { consumers, messages } => {
                format!("no connection ({consumers} consumers, {messages} messages)")
            }
        }
    }
}

/// Time for which a fence has been refused, shared by all connections of a source, so that a reconnect does not reset
/// it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FenceMemory(Arc<Mutex<Option<Busy>>>);

/// Consecutive refusals, of one connection or several.
#[derive(Clone, Copy, Debug)]
struct Busy {
    since: Instant,
    last: Instant,
}

impl FenceMemory {
    fn refused(&self) {
        let now = Instant::now();
        let busy = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *busy = Some(Busy { since: busy.map_or(now, |busy| busy.since), last: now });
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Forgets refusals older than `pause`, because the owner may have changed since.
    fn forget_after(&self, pause: Duration) {
        if self.busy().is_some_and(|busy| busy.last.elapsed() > pause) {
            self.forget();
        }
    }

    fn busy(&self) -> Option<Busy> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A requested fence.
pub(crate) struct Asking {
    queue: String,
    state: State,
    memory: FenceMemory,
    told_busy: bool,
    /// Time of the last report of the owner.
    taken_told_at: Option<Instant>,
    /// Set if the result of the last look, or its delay, was reported.
    is_look_told: bool,
    /// Time within which the broker ends the connection of an instance that hangs.
    takeover: Duration,
}

enum State {
    /// The channel has to be opened.
    ToOpen,
    /// Waits for the answer to `channel.open`.
    Opening,
    /// Waits for the answer to the exclusive declaration.
    Declaring,
    /// Waits, for a limited time, for the answer to a passive declaration, which RabbitMQ refuses for an exclusive
    /// queue.
    Looking(Pin<Box<Sleep>>),
    /// Declared. Waits for the consumer through which the broker reports the queue's deletion.
    Declared,
    /// Another connection holds the queue. Waits before the next request.
    Waiting(Pin<Box<Sleep>>),
}

impl Asking {
    /// Creates a request. `heartbeat` is this connection's, and so that of other instances.
    pub(crate) fn new(queue: &str, memory: FenceMemory, heartbeat: Option<Duration>) -> Self {
        let takeover = heartbeat.unwrap_or(DEFAULT_HEARTBEAT) * TAKEOVER_HEARTBEATS + TAKEOVER_MARGIN;
        memory.forget_after(takeover);
        let queue = queue.to_owned();
        Self {
            queue,
            state: State::ToOpen,
            memory,
            told_busy: false,
            taken_told_at: None,
            is_look_told: false,
            takeover,
        }
    }

    /// Sends the request when it is due.
    pub(crate) fn ask(&mut self, connection: &mut Connection) -> Result<(), Loss> {
        if let State::ToOpen = self.state {
            connection.ask(CHANNEL, &open_channel())?;
            self.state = State::Opening;
        }
        Ok(())
    }

    /// Becomes ready when the next request is due, or with a report of an unanswered look.
    pub(crate) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Fence>> {
        match &mut self.state {
            State::Waiting(wait) => {
                ready!(wait.as_mut().poll(cx));
                self.state = State::ToOpen;
                Poll::Ready(None)
            }
            State::Looking(patience) if !self.is_look_told => {
                ready!(patience.as_mut().poll(cx));
                let text = format!("a look at it was not answered within {} s", LOOK_PATIENCE.as_secs());
                Poll::Ready(Some(self.taken(FenceOwner::Unreachable, text)))
            }
            _ => Poll::Pending,
        }
    }

    /// Tells whether an answer is awaited on this channel. Between requests the channel is closed.
    pub(crate) fn awaits_on(&self, channel: ChannelId) -> bool {
        channel == CHANNEL && !matches!(self.state, State::ToOpen | State::Waiting(_))
    }

    /// Handles an answer, and returns the fence's new state if there is one to report.
    pub(crate) fn answered(
        &mut self,
        answer: &AMQPClass,
        connection: &mut Connection,
    ) -> Result<Option<Fence>, Loss> {
        match (&self.state, answer) {
            (State::Opening, opened) if is_answer(opened, &open_channel()) => {
                let asked = if self.is_to_look() { self.look(connection) } else { self.declare(connection) };
                asked.map(|()| None)
            }
            (State::Declaring, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(_))) => {
                self.state = State::Declared;
                connection.ask(CHANNEL, &consume(&self.queue).map_err(Loss::Broken)?).map(|()| None)
            }
            (State::Looking(_), AMQPClass::Queue(queue::AMQPMethod::DeclareOk(found))) => {
                let by =
                    FenceOwner::Nobody { consumers: found.consumer_count, messages: found.message_count };
                // The owner is known now. The next declaration shows when the queue is free.
                self.declare(connection)?;
                Ok(Some(self.taken(by, "the queue is there, and it is not exclusive".to_owned())))
            }
            (State::Declared, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_))) => {
                self.memory.forget();
                Ok(Some(Fence::Held))
            }
            (_, other) => Err(unasked(CHANNEL, other)),
        }
    }

    /// Handles a refusal. A fence held by another connection is requested again, which is reported once. After the
    /// time of a takeover, its owner is reported each minute.
    pub(crate) fn refused(&mut self, refusal: Refusal) -> Result<Option<Fence>, DeclareError> {
        let wait = if self.taken_told_at.is_some() { TAKEN_RETRY_INTERVAL } else { RETRY_INTERVAL };
        let refused = mem::replace(&mut self.state, State::Waiting(Box::pin(sleep(wait))));
        let reason = refusal.reason();
        match (refused, refusal.code) {
            (State::Declared, reply::ACCESS_REFUSED) => {
                self.memory.forget();
                Ok(Some(Fence::Unwatched { text: refusal.text }))
            }
            // The queue is gone, so the next request declares it.
            (State::Declared | State::Looking(_), _) if reason == Reason::Missing => {
                self.memory.forget();
                Ok(None)
            }
            (State::Looking(_), _) => {
                let by = FenceOwner::of(&refusal).unwrap_or(FenceOwner::Connection);
                Ok(Some(self.taken(by, refusal.text)))
            }
            (_, reply::RESOURCE_LOCKED) => {
                self.memory.refused();
                let is_news = !mem::replace(&mut self.told_busy, true);
                Ok(is_news.then_some(Fence::Busy { text: refusal.text }))
            }
            _ if matches!(reason, Reason::Permission | Reason::QueueLimit) => {
                Ok(Some(Fence::Denied { refusal }))
            }
            _ => Err(DeclareError::new(format!("queue '{}'", self.queue), refusal)),
        }
    }

    /// Tells whether a look at the queue's owner is due.
    fn is_to_look(&self) -> bool {
        self.busy_for() >= self.takeover
            && self.taken_told_at.is_none_or(|told| told.elapsed() >= LOOK_INTERVAL)
    }

    fn busy_for(&self) -> Duration {
        self.memory.busy().map(|busy| busy.since.elapsed()).unwrap_or_default()
    }

    fn declare(&mut self, connection: &mut Connection) -> Result<(), Loss> {
        self.state = State::Declaring;
        connection.ask(CHANNEL, &declare(&self.queue).map_err(Loss::Broken)?)
    }

    fn look(&mut self, connection: &mut Connection) -> Result<(), Loss> {
        self.is_look_told = false;
        self.state = State::Looking(Box::pin(sleep(LOOK_PATIENCE)));
        connection.ask(CHANNEL, &look(&self.queue).map_err(Loss::Broken)?)
    }

    fn taken(&mut self, by: FenceOwner, text: String) -> Fence {
        (self.told_busy, self.is_look_told) = (true, true);
        self.taken_told_at = Some(Instant::now());
        Fence::Taken { queue: self.queue.clone(), by, for_at_least: self.busy_for(), text }
    }
}

/// Acquires a fence until the connection ends, and watches it.
///
/// # Errors
///
/// [`BrokerError`] when another connection holds it, the user may not declare it, or the connection is lost.
pub async fn acquire(connection: &mut Connection, queue: &str) -> Result<(), BrokerError> {
    connection.open_channel(CHANNEL).await?;
    for ask in [declare, consume] {
        let answered = match ask(queue) {
            Ok(ask) => connection.call(CHANNEL, ask).await,
            Err(error) => Err(CallError::Lost(Loss::Broken(error))),
        };
        answered.map_err(|error| error.at(connection.at()))?;
    }
    // An exclusive queue belongs to the connection, not to the channel.
    connection.close_channel(CHANNEL).await
}

/// Returns the owner of a fence's queue; `None` when the queue does not exist or may not be looked at.
///
/// # Errors
///
/// [`BrokerError`] when the connection is lost, or the broker does not answer because the queue's node is down.
pub async fn owner(connection: &mut Connection, queue: &str) -> Result<Option<FenceOwner>, BrokerError> {
    connection.open_channel(CHANNEL).await?;
    let look = look(queue).map_err(|error| Loss::Broken(error).at(connection.at()))?;
    match connection.call(CHANNEL, look).await {
        Ok(AMQPClass::Queue(queue::AMQPMethod::DeclareOk(found))) => {
            connection.close_channel(CHANNEL).await?;
            Ok(Some(FenceOwner::Nobody { consumers: found.consumer_count, messages: found.message_count }))
        }
        Ok(_) => Ok(None),
        Err(CallError::Refused(refusal)) => Ok(FenceOwner::of(&refusal)),
        Err(lost) => Err(lost.at(connection.at())),
    }
}

/// Declares an exclusive queue. It is classic, whatever the virtual host's default, because no other type can be
/// exclusive.
fn declare(queue: &str) -> std::io::Result<AMQPClass> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let declare = queue::Declare { queue: short(queue)?, exclusive: true, arguments, ..Default::default() };
    Ok(AMQPClass::Queue(queue::AMQPMethod::Declare(declare)))
}

/// Declares the queue passively. The broker answers with its consumers and messages, or refuses.
fn look(queue: &str) -> std::io::Result<AMQPClass> {
    let look = queue::Declare { queue: short(queue)?, passive: true, ..Default::default() };
    Ok(AMQPClass::Queue(queue::AMQPMethod::Declare(look)))
}

/// Consumes from the fence. The broker reports to a consumer that its queue is deleted, and a policy's `expires` does
/// not delete a queue that has one. The consumer tag is the queue's name.
fn consume(queue: &str) -> std::io::Result<AMQPClass> {
    let (queue, consumer_tag) = (short(queue)?, short(queue)?);
    let consume = basic::Consume { queue, consumer_tag, no_ack: true, ..Default::default() };
    Ok(AMQPClass::Basic(basic::AMQPMethod::Consume(consume)))
}
