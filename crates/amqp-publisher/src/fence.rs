//! A fence: of all connections that ask for it one has it at a time, and only that one publishes.
//!
//! It is an exclusive queue. (Nobody else consumes from it; what somebody may publish to it is passed over unread.) RabbitMQ keeps
//! such a queue for as long as it keeps the connection that declared it, and answers everybody else with 405 RESOURCE_LOCKED (AMQP 0-9-1 reference, queue.declare
//! "exclusive"; <https://www.rabbitmq.com/docs/queues#exclusive-queues>). So whoever gets it knows that the connection of
//! the one before is gone, and with it every frame that a frozen process, a kernel or a network may still hold.

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

/// A channel of its own, as a refusal closes it.
const CHANNEL: ChannelId = 3;
/// Interval at which a fence that another connection has is asked for. Each time the broker logs a channel that failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// The same, once that takes longer than a takeover.
const TAKEN_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// The broker ends the connection of a client that hangs between two and three heartbeats after the last one.
const TAKEOVER_HEARTBEATS: u32 = 3;
/// A takeover may take so much longer than that, on a busy broker.
const TAKEOVER_MARGIN: Duration = Duration::from_secs(5);
/// How often it is looked again whose the fence is: it may be another's by now.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// A look that takes longer is told: RabbitMQ looks for a minute for the process of a queue whose node is down.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// RabbitMQ's own heartbeat, for a client that asks for none.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(60);

/// Answer to the question for a fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// It is ours until the connection ends: nobody else publishes.
    Held,
    /// Another connection has it. It is asked for again, until one of the other answers is told.
    Busy {
        /// The broker's own words, which name the queue.
        text: String,
    },
    /// Somebody has had the queue for longer than a takeover takes. It is asked for again, until one of the other answers is told; this
    /// one is told anew each minute, as it may be another's by then.
    Taken {
        /// The queue.
        queue: String,
        /// Owner, as far as AMQP tells.
        by: FenceOwner,
        /// Time for which it has been asked for in vain.
        for_at_least: Duration,
        /// The broker's own words, which name the queue and the virtual host.
        text: String,
    },
    /// It is ours, but the user has no right to read the queue, so nobody will tell if it is deleted.
    Unwatched {
        /// The broker's own words, which name the queue and the user.
        text: String,
    },
    /// The user has no right to configure the queue, or a limit of queues is reached, so there is no fence.
    Denied {
        /// The broker's word, which names the queue, and the user or the limit.
        refusal: Refusal,
    },
}

/// Owner of a queue that should be a fence. AMQP tells no client which connection declared an exclusive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceOwner {
    /// A connection that is still there: the queue is exclusive.
    Connection,
    /// A connection of a node that is down or cut off: the broker has the queue on record, and nobody answers for it. RabbitMQ keeps the
    /// record until that node is back or removed (4.2 with Khepri, 4.3).
    Unreachable,
    /// Nobody's connection: the queue is not exclusive, so no publisher has declared it, and it stays until somebody deletes it.
    Nobody {
        /// Consumers of the queue.
        consumers: u32,
        /// Messages in it.
        messages: u32,
    },
}

impl FenceOwner {
    /// The owner that the refusal of a look tells of; `None` when the queue is not there, or may not be looked at.
    fn of(refusal: &Refusal) -> Option<Self> {
        match refusal.reason() {
            Reason::Locked => Some(Self::Connection),
            Reason::Unavailable => Some(Self::Unreachable),
            _ => None,
        }
    }

    /// The owner, in words.
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

/// Memory of a fence that is somebody else's, for all connections of one source: a link that breaks makes nobody else's queue
/// younger. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FenceMemory(Arc<Mutex<Option<Busy>>>);

/// Refusals in a row, of one connection or of several that follow one another.
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

    /// Forgets what is older than `pause`: the fence may have been anybody's since.
    fn forget_after(&self, pause: Duration) {
        if self.busy().is_some_and(|busy| busy.last.elapsed() > pause) {
            self.forget();
        }
    }

    fn busy(&self) -> Option<Busy> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fence that is being asked for.
pub(crate) struct Asking {
    queue: String,
    state: State,
    memory: FenceMemory,
    told_busy: bool,
    /// When it was last told whose the fence is.
    taken_told_at: Option<Instant>,
    /// What the last look has found, or that it is not answered, was told.
    is_look_told: bool,
    /// Time within which the broker ends the connection of an instance that hangs.
    takeover: Duration,
}

enum State {
    /// The channel is to be opened.
    ToOpen,
    /// The answer to `channel.open` is awaited.
    Opening,
    /// It is declared for us alone, and the answer is awaited.
    Declaring,
    /// It is looked at whether it is there and not exclusive (a passive declare of an exclusive queue is refused). So long the answer may
    /// take.
    Looking(Pin<Box<Sleep>>),
    /// Ours; whether its end will be told is awaited.
    Declared,
    /// Somebody else has it: for so long.
    Waiting(Pin<Box<Sleep>>),
}

impl Asking {
    /// `heartbeat` is what this connection has agreed on with the broker, and so those of other instances.
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

    /// Asks, if it is time to.
    pub(crate) fn ask(&mut self, connection: &mut Connection) -> Result<(), Loss> {
        if let State::ToOpen = self.state {
            connection.ask(CHANNEL, &open_channel())?;
            self.state = State::Opening;
        }
        Ok(())
    }

    /// Ready when it is time to ask again, or with what is to be told of a look that is not answered.
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

    /// Tells whether an answer is awaited on that channel. While nothing is asked the channel is closed.
    pub(crate) fn awaits_on(&self, channel: ChannelId) -> bool {
        channel == CHANNEL && !matches!(self.state, State::ToOpen | State::Waiting(_))
    }

    /// The channel is open, or the fence is held or somebody else's, which is told.
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
                // Whose it is, is known. When it can be had, the same question tells as before.
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

    /// The broker refused. A fence that is another's is asked for again, which is told once.
    /// Whose it is, is told each minute when that takes too long.
    pub(crate) fn refused(&mut self, refusal: Refusal) -> Result<Option<Fence>, DeclareError> {
        let wait = if self.taken_told_at.is_some() { TAKEN_RETRY_INTERVAL } else { RETRY_INTERVAL };
        let refused = mem::replace(&mut self.state, State::Waiting(Box::pin(sleep(wait))));
        let reason = refusal.reason();
        match (refused, refusal.code) {
            (State::Declared, reply::ACCESS_REFUSED) => {
                self.memory.forget();
                Ok(Some(Fence::Unwatched { text: refusal.text }))
            }
            // Deleted already: it is to be had, so it is declared next.
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

    /// Tells whether it is time to find out whose the queue is.
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

/// Acquires a fence, for as long as the connection lasts, and begins to watch it.
///
/// # Errors
///
/// Somebody else has it, the user may not have it, or the connection is lost.
pub async fn acquire(connection: &mut Connection, queue: &str) -> Result<(), BrokerError> {
    connection.open_channel(CHANNEL).await?;
    for ask in [declare, consume] {
        let answered = match ask(queue) {
            Ok(ask) => connection.call(CHANNEL, ask).await,
            Err(error) => Err(CallError::Lost(Loss::Broken(error))),
        };
        answered.map_err(|error| error.at(connection.at()))?;
    }
    // The queue belongs to the connection, not to the channel.
    connection.close_channel(CHANNEL).await
}

/// Looks whose a fence is that should be nobody's; `None`: it is not there, or that cannot be seen.
///
/// # Errors
///
/// The broker does not answer, as when the queue's node is down, or the connection is lost.
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

/// Classic, whatever the virtual host's default is: no other type can be exclusive.
fn declare(queue: &str) -> std::io::Result<AMQPClass> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let declare = queue::Declare { queue: short(queue)?, exclusive: true, arguments, ..Default::default() };
    Ok(AMQPClass::Queue(queue::AMQPMethod::Declare(declare)))
}

/// Changes nothing. The broker answers how many consumers and messages there are, or refuses.
fn look(queue: &str) -> std::io::Result<AMQPClass> {
    let look = queue::Declare { queue: short(queue)?, passive: true, ..Default::default() };
    Ok(AMQPClass::Queue(queue::AMQPMethod::Declare(look)))
}

/// A consumer of the fence, whose tag is its name. It is told when the queue is deleted under way, and a policy's `expires` removes
/// no queue that has one.
fn consume(queue: &str) -> std::io::Result<AMQPClass> {
    let (queue, consumer_tag) = (short(queue)?, short(queue)?);
    let consume = basic::Consume { queue, consumer_tag, no_ack: true, ..Default::default() };
    Ok(AMQPClass::Basic(basic::AMQPMethod::Consume(consume)))
}
