//! A fence: of all connections that ask for it one has it at a time, and only that one publishes.
//!
//! It is an exclusive queue. (Nobody else consumes from it; what somebody may publish to it is passed over unread.) RabbitMQ keeps such a queue for as long as it keeps the
//! connection that declared it, and answers everybody else with 405 RESOURCE_LOCKED (AMQP 0-9-1 reference, queue.declare
//! "exclusive"; <https://www.rabbitmq.com/docs/queues#exclusive-queues>). So whoever gets it knows that the connection of
//! the one before is gone, and with it every frame that a frozen process, a kernel or a network may still hold.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use amq_protocol::{
    protocol::{AMQPClass, basic, queue},
    types::{AMQPValue, FieldTable},
};
use tokio::time::{Instant, Sleep, sleep};

use super::{
    connection::{CallError, ChannelId, Connection, is_answer, open_channel, unasked},
    endpoint::Endpoint,
    error::{BrokerError, DeclareError, Loss, Refusal, reply},
    refusal::{self, Reason},
    topology::short,
};

/// A channel of its own, as a refusal closes it.
const CHANNEL: ChannelId = 3;
/// How often a fence that another connection has is asked for. Each time the broker logs a channel that failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// The same, once that takes longer than a takeover.
const TAKEN_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// The broker ends the connection of a client that hangs between two and three heartbeats after the last one.
const TAKEOVER_HEARTBEATS: u32 = 3;
/// A takeover may take so much longer than that, on a busy broker.
const TAKEOVER_MARGIN: Duration = Duration::from_secs(5);
/// RabbitMQ's own heartbeat, for a client that asks for none.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(60);

/// What became of asking for a fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// It is ours until the connection ends: nobody else publishes.
    Held,
    /// Another connection has it. It is asked for again, until one of the other answers is told.
    Busy {
        /// The broker's own words, which name the queue.
        text: String,
    },
    /// Somebody has had the queue for longer than a takeover takes. It is asked for again, until one of the other answers is told.
    Taken {
        /// The queue.
        queue: String,
        /// Owner, as far as AMQP tells.
        by: Taker,
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
        /// The broker's own words, which name the queue, and the user or the limit.
        text: String,
        /// Next step for a fence.
        cure: String,
    },
}

/// Owner of a queue that should be a fence. AMQP tells no client which connection declared an exclusive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// A connection that is still there: the queue is exclusive.
    Connection,
    /// Nobody's connection: the queue is not exclusive, so no outboxd has declared it, and it stays until somebody deletes it.
    Nobody {
        /// Consumers of the queue.
        consumers: u32,
        /// Messages in it.
        messages: u32,
    },
}

impl Taker {
    /// The owner, in words.
    pub fn whose(&self) -> String {
        match self {
            Self::Connection => "another connection".to_owned(),
            Self::Nobody { consumers, messages } => {
                format!("no connection ({consumers} consumers, {messages} messages)")
            }
        }
    }

    /// Next step, in a sentence that may go on: finds the owner of `queue`, and ends what has it.
    pub fn cure(&self, queue: &str) -> String {
        match self {
            Self::Connection => "RabbitMQ tells no client which one. `rabbitmqctl list_queues -p VHOST name owner_pid` names it, and \
                                 `rabbitmqctl list_connections pid name user peer_host peer_port` says whose it is: an instance that \
                                 hangs, or somebody who should not have the right to configure this queue. \
                                 `rabbitmqctl close_connection PID REASON` ends it"
                .to_owned(),
            Self::Nobody { .. } => format!(
                "No outboxd has declared it, as it is not exclusive. `rabbitmqctl list_queues -p VHOST name owner_pid policy arguments` \
                 shows it, and `rabbitmqctl delete_queue -p VHOST {queue}` removes it. Take the right to configure \
                 ^outboxd\\.publisher\\. from whoever declared it"
            ),
        }
    }
}

/// A fence that is being asked for.
pub(super) struct Asking {
    queue: String,
    state: State,
    /// Time at which the broker first said that the queue is somebody else's.
    busy_since: Option<Instant>,
    told_taken: bool,
    /// Time within which the broker ends the connection of an instance that hangs.
    takeover: Duration,
}

enum State {
    /// The channel is to be opened.
    ToOpen,
    /// The answer to `channel.open` is awaited.
    Opening,
    /// The answer to that question is awaited.
    Asked(Question),
    /// Ours; whether its end will be told is awaited.
    Declared,
    /// Somebody else has it: for so long.
    Waiting(Pin<Box<Sleep>>),
}

#[derive(Clone, Copy)]
enum Question {
    /// Declares it, for us alone.
    Declare,
    /// Looks whether it is there and not exclusive: a passive declare of an exclusive queue is refused.
    Look,
}

impl Asking {
    pub(super) fn new(queue: &str, at: &Endpoint) -> Self {
        Self {
            queue: queue.to_owned(),
            state: State::ToOpen,
            busy_since: None,
            told_taken: false,
            takeover: takeover(at.uri().query.heartbeat),
        }
    }

    /// Asks, if it is time to.
    pub(super) fn ask(&mut self, connection: &mut Connection) -> Result<(), Loss> {
        if let State::ToOpen = self.state {
            connection.ask(CHANNEL, &open_channel())?;
            self.state = State::Opening;
        }
        Ok(())
    }

    /// Ready when it is time to ask again.
    pub(super) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Waiting(wait) = &mut self.state else { return Poll::Pending };
        ready!(wait.as_mut().poll(cx));
        self.state = State::ToOpen;
        Poll::Ready(())
    }

    /// Tells whether an answer is awaited on that channel. While nothing is asked the channel is closed.
    pub(super) fn awaits_on(&self, channel: ChannelId) -> bool {
        channel == CHANNEL && !matches!(self.state, State::ToOpen | State::Waiting(_))
    }

    /// The channel is open, or the fence is held or somebody else's, which is told.
    pub(super) fn answered(
        &mut self,
        answer: &AMQPClass,
        connection: &mut Connection,
    ) -> Result<Option<Fence>, Loss> {
        match (&self.state, answer) {
            (State::Opening, opened) if is_answer(opened, &open_channel()) => {
                let question = if self.is_to_look() { Question::Look } else { Question::Declare };
                self.put(question, connection).map(|()| None)
            }
            (State::Asked(Question::Declare), AMQPClass::Queue(queue::AMQPMethod::DeclareOk(_))) => {
                self.state = State::Declared;
                connection.ask(CHANNEL, &consume(&self.queue).map_err(Loss::Broken)?).map(|()| None)
            }
            (State::Asked(Question::Look), AMQPClass::Queue(queue::AMQPMethod::DeclareOk(found))) => {
                let by = Taker::Nobody { consumers: found.consumer_count, messages: found.message_count };
                // Whose it is, is known. When it can be had, the same question tells as before.
                self.put(Question::Declare, connection)?;
                Ok(Some(self.taken(by, "the queue is there, and it is not exclusive".to_owned())))
            }
            (State::Declared, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_))) => Ok(Some(Fence::Held)),
            (_, other) => Err(unasked(CHANNEL, other)),
        }
    }

    /// The broker refused. A fence that is another's is asked for again, and that is told once, and once more when it takes too long.
    pub(super) fn refused(&mut self, Refusal { code, text }: Refusal) -> Result<Option<Fence>, DeclareError> {
        let wait = if self.told_taken { TAKEN_RETRY_INTERVAL } else { RETRY_INTERVAL };
        let refused = mem::replace(&mut self.state, State::Waiting(Box::pin(sleep(wait))));
        match (refused, code) {
            (State::Declared, reply::ACCESS_REFUSED) => Ok(Some(Fence::Unwatched { text })),
            // Deleted already.
            (State::Declared | State::Asked(Question::Look), reply::NOT_FOUND) => Ok(None),
            (State::Asked(Question::Look), _) => Ok(Some(self.taken(Taker::Connection, text))),
            (_, reply::RESOURCE_LOCKED) => {
                let is_first = self.busy_since.is_none();
                self.busy_since.get_or_insert_with(Instant::now);
                Ok(is_first.then_some(Fence::Busy { text }))
            }
            _ if matches!(refusal::reason(code, &text), Reason::Permission | Reason::QueueLimit) => {
                let cure = cure(code, &text);
                Ok(Some(Fence::Denied { text, cure }))
            }
            _ => Err(DeclareError::new(format!("queue '{}'", self.queue), Refusal { code, text })),
        }
    }

    /// Tells whether it is time to find out whose the queue is.
    fn is_to_look(&self) -> bool {
        !self.told_taken && self.busy_for() >= self.takeover
    }

    fn busy_for(&self) -> Duration {
        self.busy_since.map(|since| since.elapsed()).unwrap_or_default()
    }

    fn put(&mut self, question: Question, connection: &mut Connection) -> Result<(), Loss> {
        let method = match question {
            Question::Declare => declare(&self.queue),
            Question::Look => look(&self.queue),
        };
        self.state = State::Asked(question);
        connection.ask(CHANNEL, &method.map_err(Loss::Broken)?)
    }

    fn taken(&mut self, by: Taker, text: String) -> Fence {
        self.told_taken = true;
        Fence::Taken { queue: self.queue.clone(), by, for_at_least: self.busy_for(), text }
    }
}

/// Time within which the broker has ended the connection of an instance that hangs, by the heartbeat that we ask for: other
/// instances ask for the same.
fn takeover(heartbeat_s: Option<u16>) -> Duration {
    let heartbeat = match heartbeat_s {
        None | Some(0) => DEFAULT_HEARTBEAT,
        Some(seconds) => Duration::from_secs(seconds.into()),
    };
    heartbeat * TAKEOVER_HEARTBEATS + TAKEOVER_MARGIN
}

/// Cure for a fence that the broker has refused.
pub(super) fn cure(code: u16, text: &str) -> String {
    match refusal::reason(code, text) {
        Reason::Permission => {
            r"grant the user configure and read on ^outboxd\.publisher\. too (rabbitmqctl set_permissions)"
                .to_owned()
        }
        _ => refusal::cure(code, text),
    }
}

/// Takes a fence, for as long as the connection lasts, and begins to watch it.
pub(super) async fn take(connection: &mut Connection, queue: &str) -> Result<(), BrokerError> {
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
pub(super) async fn taker(connection: &mut Connection, queue: &str) -> Option<Taker> {
    connection.open_channel(CHANNEL).await.ok()?;
    match connection.call(CHANNEL, look(queue).ok()?).await {
        Ok(AMQPClass::Queue(queue::AMQPMethod::DeclareOk(found))) => {
            connection.close_channel(CHANNEL).await.ok()?;
            Some(Taker::Nobody { consumers: found.consumer_count, messages: found.message_count })
        }
        Ok(_) => None,
        Err(CallError::Refused(Refusal { code: reply::RESOURCE_LOCKED, .. })) => Some(Taker::Connection),
        Err(_) => None,
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
