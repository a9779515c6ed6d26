//! Consumer of a durable queue that reports each message to the oracle and then acknowledges it.

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

/// Limit for one answer of a node.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Interval of checking the connection while no message arrives.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Running consumer. Dropping it stops it; its queue stays.
#[derive(Debug)]
pub struct Consumer {
    task: JoinHandle<()>,
}

impl Consumer {
    /// Declares a durable topic exchange and queue, binds them by `binding_key`, and consumes from then on.
    /// Reconnects when the broker returns.
    pub async fn start(url: &str, exchange: &str, queue: &str, binding_key: &str, oracle: &Oracle) -> Self {
        let [url, exchange, queue, binding_key] = [url, exchange, queue, binding_key].map(str::to_owned);
        // Bound before the first publish, or the test fails here.
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

/// Declares a durable topic exchange and queue, and binds them by `binding_key`, without consuming.
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

/// Connection that consumes one queue and detects its loss.
pub struct Reading {
    connection: Connection,
    deliveries: lapin::Consumer,
}

impl Reading {
    /// Connects and consumes, with at most `prefetch` unacknowledged messages.
    ///
    /// # Errors
    ///
    /// [`lapin::Error`] when the broker cannot be reached or the queue does not exist.
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

    /// Returns the next message, `None` at the end. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`lapin::Error`] when the client library cannot read a message.
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

/// Connects and opens a channel.
///
/// # Errors
///
/// [`lapin::Error`] when the broker cannot be reached or does not answer in time.
pub async fn connect(url: &str) -> Result<(Connection, Channel), lapin::Error> {
    // A stopping node may accept a connection and never answer.
    let connection = answered(Connection::connect(url, ConnectionProperties::default())).await?;
    let channel = answered(connection.create_channel()).await?;
    Ok((connection, channel))
}

/// Waits for an answer within a limit: lapin may not report to a waiting call that its connection has ended.
///
/// # Errors
///
/// [`lapin::Error`] of the answer, or when the limit has passed.
pub async fn answered<T>(answer: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, lapin::Error> {
    tokio::time::timeout(ANSWER_LIMIT, answer)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}

/// Returns a message for the oracle. Missing parts are empty, which the oracle reports.
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
