//! One durable queue, consumed with manual acknowledgements and bounded prefetch.
//!
//! RabbitMQ counts a delivery against every message that was sent and not acknowledged when the consumer's connection ends, and
//! dead-letters a message whose count exceeds the queue's delivery limit (20 by default since RabbitMQ 4). Only a prefetch of 1 keeps
//! that from messages that are not in hand. A prefetch must not shrink after such an end, either: a quorum queue puts what comes
//! back behind what came back before, so a consumer that takes back less than was returned changes the order by its own end.
//!
//! lapin gets its bytes from a `guard`, so that no message ends its thread or its connection; one that cannot be read says so
//! ([`Delivery::unreadable`]).
//!
//! Knows nothing of what a message means or of when to try again. A [`Consumer`] that gave an error is finished; the broker
//! delivers again, in the same order, whatever it had not acknowledged.

mod abandon;
mod connect;
pub(super) mod cures;
pub mod dead_letters;
mod error;
pub mod guard;
mod properties;
pub mod readable;
mod transport;

use std::{io, time::Duration};

use amqp_publisher::{
    BrokerError, Connection as OwnConnection, ConnectionOptions, Endpoint, Topology, connection::ChannelId,
    short_string::short, topology::Subscription,
};
use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, Confirmation, Connection,
    message::Delivery as LapinDelivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};

use connect::answered;
use diagnostics::legible::Legible;
pub use error::{ConsumerError, Setback};
use guard::InHand;
pub use properties::REASON_HEADER;

/// While nothing comes, the connection is looked at so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Broker and queue of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Brokers to try, and how to connect to one of them.
    pub connection: ConnectionOptions,
    /// Declare what the subscription needs; otherwise only verify that it is there.
    pub declare: bool,
    /// One partition and, for [`bury`](Consumer::bury), a dead-letter queue.
    pub subscription: Subscription,
    /// Messages that the broker sends without an acknowledgement, at most.
    pub prefetch: u16,
}

/// A connection that consumes one queue.
pub struct Consumer {
    connection: Connection,
    at: Endpoint,
    channel: Channel,
    deliveries: lapin::Consumer,
    in_hand: InHand,
    /// The first of `deliveries`, not given out yet.
    ahead: Option<LapinDelivery>,
    queue: ShortString,
    /// `<queue>.dead`.
    dead: ShortString,
}

/// Numbers of messages that wait, those already sent to a consumer not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// In the queue.
    pub queue: u32,
    /// In `<queue>.dead`.
    pub dead: u32,
}

/// A message, not acknowledged yet.
#[derive(Debug)]
pub struct Delivery {
    inner: LapinDelivery,
}

impl Consumer {
    /// Connects, declares (or verifies) what the subscription needs, and starts to consume. `attempt` rotates the URLs; `name` is
    /// shown by RabbitMQ's management.
    ///
    /// # Errors
    ///
    /// The broker cannot be reached, or refuses.
    pub async fn connect(
        options: &ConsumerOptions,
        name: &str,
        attempt: usize,
    ) -> Result<Self, ConsumerError> {
        let ConsumerOptions { subscription, prefetch, .. } = options;
        let at = declare(options, name, attempt).await?;
        let in_hand = InHand::default();
        let connection = connect::connect(&options.connection, &at, name, *prefetch, &in_hand).await?;
        let failed = |source| ConsumerError::after_open(&at, source);
        let channel = answered(connection.create_channel()).await.map_err(failed)?;
        // For what is buried.
        answered(channel.confirm_select(ConfirmSelectOptions::default())).await.map_err(failed)?;
        let queue = short(&subscription.queue).map_err(|error| failed(error.into()))?;
        let dead =
            short(&dead_letters::queue_of(&subscription.queue)).map_err(|error| failed(error.into()))?;
        answered(channel.basic_qos(*prefetch, BasicQosOptions::default())).await.map_err(failed)?;
        let consuming = channel.basic_consume(
            queue.clone(),
            ShortString::default(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let deliveries = answered(consuming).await.map_err(failed)?;
        Ok(Self { connection, at, channel, deliveries, in_hand, ahead: None, queue, dead })
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When the connection is gone, or the broker ended the consumer, for instance because the queue was deleted.
    pub async fn next(&mut self) -> Result<Delivery, ConsumerError> {
        if let Some(inner) = self.ahead.take() {
            return Ok(Delivery { inner });
        }
        let next = loop {
            // A lost connection ends the stream; this is for the one that forgot to.
            match tokio::time::timeout(LOOK_INTERVAL, self.deliveries.next()).await {
                Ok(next) => break next,
                Err(_) if self.connection.status().connected() => {}
                Err(_) => {
                    let closed = io::Error::from(io::ErrorKind::ConnectionAborted);
                    return Err(BrokerError::Lost { at: self.at.clone(), source: closed.into() }.into());
                }
            }
        };
        match next {
            Some(Ok(inner)) => Ok(Delivery { inner }),
            Some(Err(source)) => Err(self.failed(source)),
            None => Err(ConsumerError::Ended { at: self.at.clone(), queue: self.queue.to_string() }),
        }
    }

    /// Tells whether a message is there already, so that [`next`](Self::next) does not have to wait.
    pub fn has_next(&mut self) -> bool {
        if self.ahead.is_none()
            && let Some(Some(Ok(inner))) = self.deliveries.next().now_or_never()
        {
            self.ahead = Some(inner);
        }
        self.ahead.is_some()
    }

    /// The broker may forget the message.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), ConsumerError> {
        self.in_hand.settled();
        self.answered(delivery.inner.ack(BasicAckOptions::default())).await.map(drop)
    }

    /// Moves the message to `<queue>.dead`, with `reason` in the header [`REASON_HEADER`] and everything else as it was, but for
    /// headers that are too large. It is acknowledged once the broker has confirmed the copy: a loss in between gives two
    /// copies, never none.
    ///
    /// # Errors
    ///
    /// Also when no queue of that name is there to take the copy.
    pub async fn bury(&self, delivery: &Delivery, reason: &str) -> Result<(), ConsumerError> {
        // Whoever reads it in RabbitMQ's management sees what the message said.
        let reason = Legible(reason).to_string();
        let properties =
            properties::with_reason(&delivery.inner.properties, &reason, frame_bytes(&self.connection));
        let copy = published(&self.channel, &self.dead, &delivery.inner.data, properties);
        let Confirmation::Ack(None) = self.answered(copy).await? else {
            return Err(ConsumerError::NotBuried { at: self.at.clone(), queue: self.dead.to_string() });
        };
        self.ack(delivery).await
    }

    /// Asks how many messages wait.
    ///
    /// # Errors
    ///
    /// The connection is gone, or one of the queues.
    pub async fn waiting(&self) -> Result<Waiting, ConsumerError> {
        let queue = self.answered(depth(&self.channel, &self.queue)).await?;
        let dead = self.answered(depth(&self.channel, &self.dead)).await?;
        Ok(Waiting { queue, dead })
    }

    /// Closes the connection in good order. What is not acknowledged goes back to its place in the queue.
    pub async fn close(self) {
        connect::close(&self.connection).await;
    }

    async fn answered<T>(&self, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, ConsumerError> {
        answered(answer).await.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: lapin::Error) -> ConsumerError {
        ConsumerError::after_open(&self.at, source)
    }
}

impl Delivery {
    /// The property `message_id`.
    pub fn message_id(&self) -> Option<&str> {
        self.inner.properties.message_id().as_ref().map(ShortString::as_str)
    }

    /// The property `type`.
    pub fn event_type(&self) -> Option<&str> {
        self.inner.properties.kind().as_ref().map(ShortString::as_str)
    }

    /// The property `timestamp`, in seconds since 1970.
    pub fn timestamp(&self) -> Option<u64> {
        *self.inner.properties.timestamp()
    }

    /// Reason why the message could not be read as it was published. Only what could be read is here, and nobody should act on it.
    pub fn unreadable(&self) -> Option<&str> {
        self.header(readable::UNREADABLE_HEADER)
    }

    /// A header, if it is there and is valid text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.inner.properties.headers().as_ref()?;
        let value = headers.inner().get(name)?.as_long_string()?;
        std::str::from_utf8(value.as_bytes()).ok()
    }

    /// Tells whether a boolean header is there and true.
    pub fn flag(&self, name: &str) -> bool {
        let headers = self.inner.properties.headers().as_ref();
        let value = headers.and_then(|headers| headers.inner().get(name)).and_then(AMQPValue::as_bool);
        value.unwrap_or(false)
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.inner.data
    }
}

/// On a connection of its own, which is closed again. Says which of the brokers it was.
async fn declare(options: &ConsumerOptions, name: &str, attempt: usize) -> Result<Endpoint, BrokerError> {
    const CHANNEL: ChannelId = 1;
    let topology = Topology {
        declare: options.declare,
        subscriptions: vec![options.subscription.clone()],
        ..Topology::default()
    };
    let mut connection = OwnConnection::connect(&options.connection, name, attempt).await?;
    connection.open_channel(CHANNEL).await?;
    topology.declare(&mut connection, CHANNEL).await?;
    let at = connection.at().clone();
    connection.close().await;
    Ok(at)
}

/// Publishes to a queue by the default exchange, and gives the broker's word on it.
async fn published(
    channel: &Channel,
    queue: &ShortString,
    body: &[u8],
    properties: lapin::BasicProperties,
) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    channel.basic_publish(ShortString::default(), queue.clone(), options, body, properties).await?.await
}

/// Number of messages that wait in a queue.
async fn depth(channel: &Channel, queue: &ShortString) -> lapin::Result<u32> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = channel.queue_declare(queue.clone(), options, FieldTable::default()).await?;
    Ok(declared.message_count())
}

/// Frames as the two sides agreed on them.
fn frame_bytes(connection: &Connection) -> usize {
    usize::try_from(connection.configuration().frame_max()).unwrap_or(usize::MAX)
}
