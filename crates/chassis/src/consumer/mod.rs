//! Consumer of one durable queue, with manual acknowledgements and bounded prefetch.
//!
//! When a consumer's connection ends, RabbitMQ counts a delivery of every unacknowledged message, and dead-letters a
//! message whose count exceeds the queue's delivery limit (20 by default since RabbitMQ 4). Only a prefetch of 1
//! avoids counts of messages that are not in hand. A prefetch must not shrink after such an end, either: a quorum
//! queue puts returned messages behind those returned before, so a consumer that takes fewer than were returned
//! changes the order by its own end.
//!
//! lapin gets its bytes from a `guard`, so that no message ends its thread or connection. An unreadable message is
//! marked ([`Delivery::unreadable`]).
//!
//! Does not know the meaning of messages or when to retry. A [`Consumer`] is unusable after an error; the broker
//! delivers all unacknowledged messages again, in the same order.

mod abandon;
mod connect;
pub(super) mod cures;
pub mod dead_letters;
mod error;
pub mod guard;
mod properties;
pub mod readable;
mod session;
mod transient;
mod transport;

use std::collections::BTreeMap;

use amqp_publisher::{
    BrokerError, Connection as OwnConnection, ConnectionOptions, Endpoint, Topology,
    connection::ChannelId,
    topology::{Exchange, Subscription},
};
use lapin::{
    Channel, Confirmation, Connection,
    message::Delivery as LapinDelivery,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use diagnostics::legible::Legible;
pub use error::{ConsumerError, Setback};
pub use properties::REASON_HEADER;
use session::{Line, Session};
pub use transient::{Binding, TransientConsumer, TransientOptions};

/// Broker and queue of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Brokers to try, and how to connect to one of them.
    pub connection: ConnectionOptions,
    /// Set to declare what the subscription needs. Otherwise its existence is verified.
    pub declare: bool,
    /// Exchange of the subscription, unless it is a durable topic.
    pub exchange: Option<Exchange>,
    /// The subscription, with one partition and, for [`bury`](Consumer::bury), a dead-letter queue.
    pub subscription: Subscription,
    /// Most unacknowledged messages.
    pub prefetch: u16,
}

/// Connection that consumes one queue.
pub struct Consumer {
    session: Session,
    /// `<queue>.dead`.
    dead: ShortString,
}

/// Numbers of waiting messages, without those sent to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// In the queue.
    pub queue: u32,
    /// In `<queue>.dead`.
    pub dead: u32,
}

/// Unacknowledged message.
#[derive(Debug)]
pub struct Delivery {
    inner: LapinDelivery,
}

impl Consumer {
    /// Connects, declares or verifies what the subscription needs, and starts consuming. `attempt` selects the first
    /// URL. RabbitMQ's management shows `name`.
    ///
    /// # Errors
    ///
    /// [`ConsumerError`] when the broker cannot be reached or refuses.
    pub async fn connect(
        options: &ConsumerOptions,
        name: &str,
        attempt: usize,
    ) -> Result<Self, ConsumerError> {
        let ConsumerOptions { subscription, prefetch, .. } = options;
        let topology = Topology {
            declare: options.declare,
            exchanges: options.exchange.iter().cloned().collect(),
            subscriptions: vec![subscription.clone()],
            ..Topology::default()
        };
        let at = declare(&options.connection, &topology, name, attempt).await?;
        let line = Line::open(&options.connection, at, name, *prefetch).await?;
        // Confirms are for buried messages.
        line.answered(line.channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let queue = line.short(&subscription.queue)?;
        let dead = line.short(&dead_letters::queue_of(&subscription.queue))?;
        Ok(Self { session: line.consume(queue).await?, dead })
    }

    /// Returns the next message. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`ConsumerError`] when the connection is lost, or the broker ends the consumer, for instance because the queue
    /// was deleted.
    pub async fn next(&mut self) -> Result<Delivery, ConsumerError> {
        self.session.next().await
    }

    /// Tells whether a message has arrived, so that [`next`](Self::next) returns at once.
    pub fn has_next(&mut self) -> bool {
        self.session.has_next()
    }

    /// Acknowledges a message.
    ///
    /// # Errors
    ///
    /// [`ConsumerError`] when the connection is lost.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), ConsumerError> {
        self.session.ack(delivery).await
    }

    /// Moves a message to `<queue>.dead`, with `reason` in the header [`REASON_HEADER`] and everything else
    /// unchanged, except headers that are too large. It is acknowledged once the broker has confirmed the copy: a
    /// failure in between leaves two copies, never none.
    ///
    /// # Errors
    ///
    /// [`ConsumerError`], also when the dead-letter queue does not exist to accept the copy.
    pub async fn bury(&self, delivery: &Delivery, reason: &str) -> Result<(), ConsumerError> {
        // RabbitMQ's management shows the reason, which may quote the message.
        let reason = Legible(reason).to_string();
        let line = &self.session.line;
        let properties =
            properties::with_reason(&delivery.inner.properties, &reason, frame_bytes(&line.connection));
        let copy = published(&line.channel, &self.dead, &delivery.inner.data, properties);
        let Confirmation::Ack(None) = line.answered(copy).await? else {
            return Err(ConsumerError::NotBuried { at: line.at.clone(), queue: self.dead.to_string() });
        };
        self.ack(delivery).await
    }

    /// Queries the numbers of waiting messages.
    ///
    /// # Errors
    ///
    /// [`ConsumerError`] when the connection is lost or a queue does not exist.
    pub async fn waiting(&self) -> Result<Waiting, ConsumerError> {
        let line = &self.session.line;
        let queue = line.answered(depth(&line.channel, &self.session.queue)).await?;
        let dead = line.answered(depth(&line.channel, &self.dead)).await?;
        Ok(Waiting { queue, dead })
    }

    /// Closes the connection in order. Unacknowledged messages return to their place in the queue.
    pub async fn close(self) {
        self.session.close().await;
    }
}

impl Delivery {
    /// Returns the property `message_id`.
    pub fn message_id(&self) -> Option<&str> {
        self.inner.properties.message_id().as_ref().map(ShortString::as_str)
    }

    /// Returns the property `type`.
    pub fn event_type(&self) -> Option<&str> {
        self.inner.properties.kind().as_ref().map(ShortString::as_str)
    }

    /// Returns the property `timestamp`, in seconds since 1970.
    pub fn timestamp(&self) -> Option<u64> {
        *self.inner.properties.timestamp()
    }

    /// Returns the reason why the message is unreadable. Only its readable parts are present, so nobody should act on
    /// it.
    pub fn unreadable(&self) -> Option<&str> {
        self.header(readable::UNREADABLE_HEADER)
    }

    /// Returns a header, if it exists and is valid text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.inner.properties.headers().as_ref()?;
        let value = headers.inner().get(name)?.as_long_string()?;
        std::str::from_utf8(value.as_bytes()).ok()
    }

    /// Returns the headers that are valid text of at most `bytes_max` bytes.
    pub fn text_headers(&self, bytes_max: usize) -> BTreeMap<String, String> {
        let headers = self.inner.properties.headers().iter().flat_map(|headers| headers.inner());
        let texts = headers.filter_map(|(name, value)| {
            let text = std::str::from_utf8(value.as_long_string()?.as_bytes()).ok()?;
            (text.len() <= bytes_max).then(|| (name.to_string(), text.to_owned()))
        });
        texts.collect()
    }

    /// Tells whether a boolean header exists and is true.
    pub fn flag(&self, name: &str) -> bool {
        let headers = self.inner.properties.headers().as_ref();
        let value = headers.and_then(|headers| headers.inner().get(name)).and_then(AMQPValue::as_bool);
        value.unwrap_or(false)
    }

    /// Returns the body.
    pub fn body(&self) -> &[u8] {
        &self.inner.data
    }
}

/// Declares or verifies a topology on a connection of its own, closes it, and returns the broker. It reports why the
/// broker refuses this user, which lapin does not.
async fn declare(
    options: &ConnectionOptions,
    topology: &Topology,
    name: &str,
    attempt: usize,
) -> Result<Endpoint, BrokerError> {
    const CHANNEL: ChannelId = 1;
    let mut connection = OwnConnection::connect(options, name, attempt).await?;
    connection.open_channel(CHANNEL).await?;
    topology.declare(&mut connection, CHANNEL).await?;
    let at = connection.at().clone();
    connection.close().await;
    Ok(at)
}

/// Publishes to a queue by the default exchange, and returns the broker's confirmation.
async fn published(
    channel: &Channel,
    queue: &ShortString,
    body: &[u8],
    properties: lapin::BasicProperties,
) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    channel.basic_publish(ShortString::default(), queue.clone(), options, body, properties).await?.await
}

/// Returns the number of messages waiting in a queue.
async fn depth(channel: &Channel, queue: &ShortString) -> lapin::Result<u32> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = channel.queue_declare(queue.clone(), options, FieldTable::default()).await?;
    Ok(declared.message_count())
}

/// Returns the agreed frame size.
fn frame_bytes(connection: &Connection) -> usize {
    usize::try_from(connection.configuration().frame_max()).unwrap_or(usize::MAX)
}
