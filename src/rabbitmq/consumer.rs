//! One durable queue, consumed with manual acknowledgements and bounded prefetch.
//!
//! Knows nothing of what a message means or of when to try again. A [`Consumer`] that gave an error is finished; the broker
//! delivers again, in the same order, whatever it had not acknowledged.

mod abandon;
mod connect;

use std::{io, time::Duration};

use futures_util::{FutureExt, StreamExt};
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
    broker::BrokerOptions,
    connection,
    endpoint::Endpoint,
    error::BrokerError,
    topology::{self, Subscription, short},
};
use connect::answered;

/// Header of a buried message: why it is in `<queue>.dead`.
pub const REASON_HEADER: &str = "dead-letter-reason";
/// A reason longer than this many characters is cut.
const REASON_CHARS_MAX: usize = 1000;
/// Headers that are larger are left out of a buried message: with the reason they might not fit into one frame, for which the
/// broker would close the connection.
const HEADERS_BYTES_MAX: usize = super::endpoint::FRAME_MAX as usize / 2;
/// Headers by which a publisher addresses more queues (RabbitMQ's sender-selected distribution).
const ADDRESSES: [&str; 2] = ["CC", "BCC"];
/// While nothing comes, the connection is looked at so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A connection that consumes one queue.
pub struct Consumer {
    connection: Connection,
    at: Endpoint,
    channel: Channel,
    deliveries: lapin::Consumer,
    /// Taken out of `deliveries`, and not given out yet.
    ahead: Option<LapinDelivery>,
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
        let at = declare(options, subscription, name, attempt).await?;
        let connection = connect::connect(options, &at, name).await?;
        let failed = |source| BrokerError::after_open(&at, source);
        let channel = answered(connection.create_channel()).await.map_err(failed)?;
        // For what is buried.
        answered(channel.confirm_select(ConfirmSelectOptions::default())).await.map_err(failed)?;
        answered(channel.basic_qos(prefetch, BasicQosOptions::default())).await.map_err(failed)?;
        let queue = short(&subscription.queue).map_err(|error| failed(error.into()))?;
        let consuming = channel.basic_consume(
            queue.clone(),
            ShortString::default(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let deliveries = answered(consuming).await.map_err(failed)?;
        Ok(Self { connection, at, channel, deliveries, ahead: None, queue })
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When the connection is gone, or the broker ended the consumer, for instance because the queue was deleted.
    pub async fn next(&mut self) -> Result<Delivery, BrokerError> {
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
                    return Err(BrokerError::Lost { at: self.at.clone(), source: closed.into() });
                }
            }
        };
        match next {
            Some(Ok(inner)) => Ok(Delivery { inner }),
            Some(Err(source)) => Err(self.failed(source)),
            None => Err(BrokerError::ConsumerEnded { at: self.at.clone(), queue: self.queue.to_string() }),
        }
    }

    /// Whether a message is there already, so that [`next`](Self::next) does not have to wait.
    pub fn has_next(&mut self) -> bool {
        if self.ahead.is_none()
            && let Some(Some(Ok(inner))) = self.deliveries.next().now_or_never()
        {
            self.ahead = Some(inner);
        }
        self.ahead.is_some()
    }

    /// The broker may forget the message.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), BrokerError> {
        self.answered(delivery.inner.ack(BasicAckOptions::default())).await.map(drop)
    }

    /// Moves the message to `<queue>.dead`, with `reason` in the header [`REASON_HEADER`] and everything else as it was. It is
    /// acknowledged once the broker has confirmed the copy: a loss in between gives two copies, never none.
    ///
    /// # Errors
    ///
    /// Also when no queue of that name is there to take the copy.
    pub async fn bury(&self, delivery: &Delivery, reason: &str) -> Result<(), BrokerError> {
        let dead = format!("{}.dead", self.queue);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let properties = with_reason(&delivery.inner.properties, reason);
        let body = &delivery.inner.data;
        let published = async {
            self.channel
                .basic_publish(ShortString::default(), short(&dead)?, options, body, properties)
                .await?
                .await
        };
        match self.answered(published).await? {
            Confirmation::Ack(None) => self.ack(delivery).await,
            _ => Err(BrokerError::NotBuried { at: self.at.clone(), queue: dead }),
        }
    }

    /// How many messages wait in the queue, those already sent to a consumer not counted.
    pub async fn waiting(&self) -> Result<u32, BrokerError> {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = self.channel.queue_declare(self.queue.clone(), options, FieldTable::default());
        self.answered(queue).await.map(|queue| queue.message_count())
    }

    /// Closes the connection in good order. What is not acknowledged goes back to its place in the queue.
    pub async fn close(self) {
        connect::close(&self.connection).await;
    }

    async fn answered<T>(&self, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, BrokerError> {
        answered(answer).await.map_err(|source| self.failed(source))
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

    /// Whether a boolean header is there and true.
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
async fn declare(
    options: &BrokerOptions,
    subscription: &Subscription,
    name: &str,
    attempt: usize,
) -> Result<Endpoint, BrokerError> {
    const CHANNEL: connection::ChannelId = 1;
    let mut connection = connection::Connection::connect(options, name, attempt).await?;
    connection.open_channel(CHANNEL).await?;
    topology::declare(&mut connection, CHANNEL, options, std::slice::from_ref(subscription)).await?;
    let at = connection.at().clone();
    connection.close().await;
    Ok(at)
}

/// The message's properties but for those that concern its way and not itself: who sent it (`user_id`, which the broker compares with
/// the sender, and that is us now), when to forget it (`expiration`), and where else to put it.
fn with_reason(properties: &BasicProperties, reason: &str) -> BasicProperties {
    /// `delivery_mode` of a message that the broker writes to disk.
    const PERSISTENT: u8 = 2;
    // The shortest text of a value is not shorter than its bytes.
    let own = properties.headers().as_ref().filter(|own| format!("{own:?}").len() <= HEADERS_BYTES_MAX);
    let mut headers = FieldTable::default();
    for (name, value) in own.into_iter().flat_map(|own| own.inner()) {
        if !ADDRESSES.contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    headers.insert(REASON_HEADER.into(), AMQPValue::LongString(LongString::from(reason)));
    let mut kept = BasicProperties::default().with_headers(headers).with_delivery_mode(PERSISTENT);
    type Text =
        (fn(&BasicProperties) -> &Option<ShortString>, fn(BasicProperties, ShortString) -> BasicProperties);
    let texts: [Text; 7] = [
        (BasicProperties::message_id, BasicProperties::with_message_id),
        (BasicProperties::kind, BasicProperties::with_type),
        (BasicProperties::content_type, BasicProperties::with_content_type),
        (BasicProperties::content_encoding, BasicProperties::with_content_encoding),
        (BasicProperties::correlation_id, BasicProperties::with_correlation_id),
        (BasicProperties::reply_to, BasicProperties::with_reply_to),
        (BasicProperties::app_id, BasicProperties::with_app_id),
    ];
    for (text, with_text) in texts {
        if let Some(text) = text(properties) {
            kept = with_text(kept, text.clone());
        }
    }
    match properties.timestamp() {
        Some(timestamp) => kept.with_timestamp(*timestamp),
        None => kept,
    }
}
