//! A fence: of all connections that ask for it one has it at a time, and only that one publishes.
//!
//! It is an exclusive queue. (Nobody else consumes from it; what somebody may publish to it is passed over unread.) RabbitMQ keeps such a queue for as long as it keeps the
//! connection that declared it, and answers everybody else with 405 RESOURCE_LOCKED (AMQP 0-9-1 reference, queue.declare
//! "exclusive"; <https://www.rabbitmq.com/docs/queues#exclusive-queues>). So whoever gets it knows that the connection of
//! the one before is gone, and with it every frame that a frozen process, a kernel or a network may still hold.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use amq_protocol::{
    protocol::{AMQPClass, basic, queue},
    types::{AMQPValue, FieldTable},
};
use tokio::time::{Sleep, sleep};

use super::{
    connection::{CallError, ChannelId, Connection, is_answer, open_channel, unasked},
    error::{BrokerError, DeclareError, Loss, Refusal, reply},
    refusal::{self, Reason},
    topology::short,
};

/// A channel of its own, as a refusal closes it.
const CHANNEL: ChannelId = 3;
/// How often a fence that another connection has is asked for. Each time the broker logs a channel that failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// What became of asking for a fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// It is ours until the connection ends: nobody else publishes.
    Held,
    /// Another connection has it. It is asked for again, until one of the other two is told.
    Busy {
        /// The broker's own words, which name the queue.
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

/// A fence that is being asked for.
pub(super) struct Asking {
    queue: String,
    state: State,
    told_busy: bool,
}

enum State {
    /// The channel is to be opened.
    ToOpen,
    /// An answer is awaited.
    Asked,
    /// Ours; whether its end will be told is awaited.
    Declared,
    /// Somebody else has it: for so long.
    Waiting(Pin<Box<Sleep>>),
}

impl Asking {
    pub(super) fn new(queue: &str) -> Self {
        Self { queue: queue.to_owned(), state: State::ToOpen, told_busy: false }
    }

    /// Asks, if it is time to.
    pub(super) fn ask(&mut self, connection: &mut Connection) -> Result<(), Loss> {
        if let State::ToOpen = self.state {
            connection.ask(CHANNEL, &open_channel())?;
            self.state = State::Asked;
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

    /// Whether an answer on that channel is to what was asked here.
    pub(super) fn is_on(&self, channel: ChannelId) -> bool {
        channel == CHANNEL
    }

    /// The channel is open, or the fence is held, which is told.
    pub(super) fn answered(
        &mut self,
        answer: &AMQPClass,
        connection: &mut Connection,
    ) -> Result<Option<Fence>, Loss> {
        let declare = declare(&self.queue).map_err(Loss::Broken)?;
        match answer {
            opened if is_answer(opened, &open_channel()) => connection.ask(CHANNEL, &declare).map(|()| None),
            declared if is_answer(declared, &declare) => {
                self.state = State::Declared;
                connection.ask(CHANNEL, &consume(&self.queue).map_err(Loss::Broken)?).map(|()| None)
            }
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_)) => Ok(Some(Fence::Held)),
            other => Err(unasked(CHANNEL, other)),
        }
    }

    /// The broker refused. A fence that is another's is asked for again, and that is told once.
    pub(super) fn refused(&mut self, Refusal { code, text }: Refusal) -> Result<Option<Fence>, DeclareError> {
        match code {
            reply::ACCESS_REFUSED if matches!(self.state, State::Declared) => {
                Ok(Some(Fence::Unwatched { text }))
            }
            // Deleted already.
            reply::NOT_FOUND if matches!(self.state, State::Declared) => {
                self.state = State::Waiting(Box::pin(sleep(RETRY_INTERVAL)));
                Ok(None)
            }
            reply::RESOURCE_LOCKED => {
                self.state = State::Waiting(Box::pin(sleep(RETRY_INTERVAL)));
                let told_before = std::mem::replace(&mut self.told_busy, true);
                Ok((!told_before).then_some(Fence::Busy { text }))
            }
            _ if matches!(refusal::reason(code, &text), Reason::Permission | Reason::QueueLimit) => {
                let cure = cure(code, &text);
                Ok(Some(Fence::Denied { text, cure }))
            }
            _ => Err(DeclareError::new(format!("queue '{}'", self.queue), Refusal { code, text })),
        }
    }
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

/// Classic, whatever the virtual host's default is: no other type can be exclusive.
fn declare(queue: &str) -> std::io::Result<AMQPClass> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let declare = queue::Declare { queue: short(queue)?, exclusive: true, arguments, ..Default::default() };
    Ok(AMQPClass::Queue(queue::AMQPMethod::Declare(declare)))
}

/// A consumer of the fence, whose tag is its name. It is told when the queue is deleted under way, and a policy's `expires` removes
/// no queue that has one.
fn consume(queue: &str) -> std::io::Result<AMQPClass> {
    let (queue, consumer_tag) = (short(queue)?, short(queue)?);
    let consume = basic::Consume { queue, consumer_tag, no_ack: true, ..Default::default() };
    Ok(AMQPClass::Basic(basic::AMQPMethod::Consume(consume)))
}
