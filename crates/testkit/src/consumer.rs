//! A consumer with a durable queue, which tells the oracle what it gets and then acknowledges it.

use super::oracle::{Oracle, Received};
use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long a node may take over one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// While nothing comes, the connection is looked at so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A running consumer; stops when dropped, and its queue stays.
#[derive(Debug)]
pub struct Consumer {
    task: JoinHandle<()>,
}

impl Consumer {
    /// Declares the topic exchange and the queue, both durable, binds them by `binding_key`, and consumes from then on;
    /// when the broker goes away, as soon as it is back.
    pub async fn start(url: &str, exchange: &str, queue: &str, binding_key: &str, oracle: &Oracle) -> Self {
        let [url, exchange, queue, binding_key] = [url, exchange, queue, binding_key].map(str::to_owned);
        // Bound before anything is published, or the test fails here.
        bind(&url, &exchange, &queue, &binding_key).await;
        let oracle = oracle.clone();
        let task = tokio::spawn(async move {
            loop {
                match consume(&url, &queue, &oracle).await {
                    Ok(()) => println!("consumer: no more deliveries; connecting again"),
                    Err(error) => println!("consumer: {error}; connecting again"),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { task }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Declares the topic exchange and the queue, both durable, and binds them by `binding_key`; consumes nothing.
pub async fn bind(url: &str, exchange: &str, queue: &str, binding_key: &str) {
    declare(url, exchange, queue, binding_key).await.expect("queue declared");
}

async fn declare(url: &str, exchange: &str, queue: &str, binding_key: &str) -> Result<(), lapin::Error> {
    let (connection, channel) = connect(url).await?;
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let declaring =
        channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default());
    answered(declaring).await?;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    answered(channel.queue_declare(queue.into(), durable, FieldTable::default())).await?;
    let options = QueueBindOptions::default();
    let binding =
        channel.queue_bind(queue.into(), exchange.into(), binding_key.into(), options, FieldTable::default());
    answered(binding).await?;
    answered(connection.close(200, "declared".into())).await
}

async fn consume(url: &str, queue: &str, oracle: &Oracle) -> Result<(), lapin::Error> {
    let mut reading = Reading::open(url, queue, 100, FieldTable::default()).await?;
    while let Some(delivery) = reading.next().await? {
        oracle.received(received(&delivery));
        answered(delivery.ack(BasicAckOptions::default())).await?;
    }
    Ok(())
}

/// A connection that consumes one queue, and notices when it is lost.
pub struct Reading {
    connection: Connection,
    deliveries: lapin::Consumer,
}

impl Reading {
    /// Connects and consumes, with at most `prefetch` messages ahead of their acknowledgements.
    ///
    /// # Errors
    ///
    /// A broker that cannot be reached, or a queue that is not there.
    pub async fn open(
        url: &str,
        queue: &str,
        prefetch: u16,
        arguments: FieldTable,
    ) -> Result<Self, lapin::Error> {
        let (connection, channel) = connect(url).await?;
        answered(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions::default();
        let consuming = channel.basic_consume(queue.into(), "".into(), options, arguments);
        let deliveries = answered(consuming).await?;
        Ok(Self { connection, deliveries })
    }

    /// The next message; nothing when there will be none. Cancel-safe.
    ///
    /// # Errors
    ///
    /// A message that the client library cannot read.
    pub async fn next(&mut self) -> Result<Option<Delivery>, lapin::Error> {
        loop {
            match tokio::time::timeout(LOOK_INTERVAL, self.deliveries.next()).await {
                Ok(delivery) => return delivery.transpose(),
                Err(_idle) if self.connection.status().connected() => {}
                Err(_lost) => return Ok(None),
            }
        }
    }
}

/// Connects, and opens a channel.
///
/// # Errors
///
/// A broker that cannot be reached, or does not answer in time.
pub async fn connect(url: &str) -> Result<(Connection, Channel), lapin::Error> {
    // A node that is going down may take a connection and never answer.
    let connection = answered(Connection::connect(url, ConnectionProperties::default())).await?;
    let channel = answered(connection.create_channel()).await?;
    Ok((connection, channel))
}

/// Bounds an answer: one that is awaited while its connection dies may never be told so.
///
/// # Errors
///
/// That of the answer, or a limit that has passed.
pub async fn answered<T>(answer: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, lapin::Error> {
    tokio::time::timeout(ANSWER_LIMIT, answer)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}

/// A message as the oracle wants it; what is missing is empty, and the oracle will say so.
pub fn received(delivery: &Delivery) -> Received {
    let header = |name: &str| {
        let headers = delivery.properties.headers().as_ref();
        match headers.and_then(|headers| headers.inner().get(name)) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => String::new(),
        }
    };
    Received {
        id: delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default(),
        aggregate: header("aggregate-id"),
        position: header("outbox-position"),
        body: String::from_utf8_lossy(&delivery.data).into_owned(),
        redelivered: delivery.redelivered,
    }
}
