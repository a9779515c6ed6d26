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

/// How long a node may take to answer a new connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

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
                if let Err(error) = consume(&url, &queue, &oracle).await {
                    println!("consumer: {error}; connecting again");
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
    channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), durable, FieldTable::default()).await?;
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue.into(), exchange.into(), binding_key.into(), options, FieldTable::default())
        .await?;
    connection.close(200, "declared".into()).await
}

async fn consume(url: &str, queue: &str, oracle: &Oracle) -> Result<(), lapin::Error> {
    let (_connection, channel) = connect(url).await?;
    channel.basic_qos(100, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut deliveries =
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        oracle.received(received(&delivery));
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

async fn connect(url: &str) -> Result<(Connection, Channel), lapin::Error> {
    // A node that is going down may take a connection and never answer.
    let connecting = Connection::connect(url, ConnectionProperties::default());
    let connection = tokio::time::timeout(CONNECT_LIMIT, connecting)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
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
