//! One durable queue, consumed with manual acknowledgements and bounded prefetch.
//!
//! Knows nothing of what a message means or of when to try again. A [`Consumer`] that gave an error is finished; the broker
//! delivers again, in the same order, whatever it had not acknowledged.

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    message::Delivery as LapinDelivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use super::{
    broker::{self, Broker, BrokerOptions},
    endpoint::Endpoint,
    error::BrokerError,
    topology::{self, Subscription, short},
};

/// Header of a buried message: why it is in `<queue>.dead`.
pub const REASON_HEADER: &str = "dead-letter-reason";
/// A reason longer than this many characters is cut: with the message's own headers it has to fit into one frame.
const REASON_CHARS_MAX: usize = 1000;

/// A connection that consumes one queue.
pub struct Consumer {
    connection: Connection,
    at: Endpoint,
    channel: Channel,
    deliveries: lapin::Consumer,
    queue: ShortString,
}

/// A message, not acknowledged yet.
#[derive(Debug)]
pub struct Delivery {
    inner: LapinDelivery,
}

impl Consumer {
    /// Connects, declares (or verifies) what the subscription needs, and starts to consume. The broker sends at most
    /// `prefetch` messages ahead of their acknowledgements. `attempt` rotates the URLs; `name` is shown by RabbitMQ's
    /// management.
    ///
    /// The subscription has one partition and, for [`bury`](Self::bury), a dead-letter queue.
    pub async fn connect(
        options: &BrokerOptions,
        subscription: &Subscription,
        name: &str,
        prefetch: u16,
        attempt: usize,
    ) -> Result<Self, BrokerError> {
        // Whether the broker blocks publishers does not concern a consumer.
        let Broker { connection, at, events: _ } = Broker::connect(options, name, attempt).await?;
        let failed = |source| BrokerError::after_open(&at, source);
        let channel = connection.create_channel().await.map_err(failed)?;
        topology::declare(&channel, std::slice::from_ref(subscription), options.declare)
            .await
            .map_err(|failure| failure.at(&at))?;
        // For what is buried.
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(failed)?;
        let queue = short(&subscription.queue).map_err(failed)?;
        let deliveries = channel
            .basic_consume(
                queue.clone(),
                ShortString::default(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(failed)?;
        Ok(Self { connection, at, channel, deliveries, queue })
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When the connection is gone, or the broker ended the consumer, for instance because the queue was deleted.
    pub async fn next(&mut self) -> Result<Delivery, BrokerError> {
        match self.deliveries.next().await {
            Some(Ok(inner)) => Ok(Delivery { inner }),
            Some(Err(source)) => Err(self.failed(source)),
            None => Err(BrokerError::ConsumerEnded { at: self.at.clone(), queue: self.queue.to_string() }),
        }
    }

    /// The broker may forget the message.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), BrokerError> {
        delivery.inner.ack(BasicAckOptions::default()).await.map(drop).map_err(|source| self.failed(source))
    }

    /// Moves the message to `<queue>.dead`, with `reason` in the header [`REASON_HEADER`] and everything else as it was. It is
    /// acknowledged once the broker has confirmed the copy: a loss in between gives two copies, never none.
    ///
    /// # Errors
    ///
    /// Also when no queue of that name is there to take the copy.
    pub async fn bury(&self, delivery: &Delivery, reason: &str) -> Result<(), BrokerError> {
        let failed = |source| self.failed(source);
        let dead = format!("{}.dead", self.queue);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let confirm = self
            .channel
            .basic_publish(
                ShortString::default(),
                short(&dead).map_err(failed)?,
                options,
                &delivery.inner.data,
                with_reason(&delivery.inner.properties, reason),
            )
            .await
            .map_err(failed)?;
        match confirm.await.map_err(failed)? {
            Confirmation::Ack(None) => self.ack(delivery).await,
            _ => Err(BrokerError::NotBuried { at: self.at.clone(), queue: dead }),
        }
    }

    /// How many messages wait in the queue, those already sent to a consumer not counted.
    pub async fn waiting(&self) -> Result<u32, BrokerError> {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = self.channel.queue_declare(self.queue.clone(), options, FieldTable::default()).await;
        queue.map(|queue| queue.message_count()).map_err(|source| self.failed(source))
    }

    /// Closes the connection in good order. What is not acknowledged goes back to its place in the queue.
    pub async fn close(self) {
        broker::close(&self.connection).await;
    }

    fn failed(&self, source: lapin::Error) -> BrokerError {
        BrokerError::after_open(&self.at, source)
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

    /// A header, if it is there and is valid text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.inner.properties.headers().as_ref()?;
        let value = headers.inner().get(name)?.as_long_string()?;
        std::str::from_utf8(value.as_bytes()).ok()
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.inner.data
    }
}

fn with_reason(properties: &BasicProperties, reason: &str) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    headers.insert(REASON_HEADER.into(), AMQPValue::LongString(LongString::from(reason)));
    /// `delivery_mode` of a message that the broker writes to disk.
    const PERSISTENT: u8 = 2;
    properties.clone().with_headers(headers).with_delivery_mode(PERSISTENT)
}
