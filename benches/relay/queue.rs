//! Queue of all relays as an observer sees it: the same for every relay, at no cost for any.

use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

/// Exchange of every relay.
pub const EXCHANGE: &str = "Order.events";
/// Queue bound to the exchange for everything.
pub const QUEUE: &str = "bench";

/// Observed queue.
pub struct Queue {
    channel: Channel,
    name: String,
    _connection: Connection,
}

impl Queue {
    /// Creates the queue anew, of type `quorum`, `classic` or `stream`, without remains of an earlier drain on the
    /// broker's disk.
    pub async fn fresh(amqp_url: &str, kind: &str) -> Self {
        Self::named(amqp_url, QUEUE, kind).await
    }

    /// As [`Queue::fresh`], with another name.
    pub async fn named(amqp_url: &str, name: &str, kind: &str) -> Self {
        let queue = Self::open(amqp_url, name).await;
        let channel = &queue.channel;
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, FieldTable::default())
            .await
            .expect("exchange");
        queue.delete().await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(name.into(), durable, arguments).await.expect("queue");
        let options = QueueBindOptions::default();
        channel
            .queue_bind(name.into(), EXCHANGE.into(), "#".into(), options, FieldTable::default())
            .await
            .expect("binding");
        queue
    }

    /// Returns the existing queue, after the broker was away.
    pub async fn existing(amqp_url: &str) -> Self {
        Self::open(amqp_url, QUEUE).await
    }

    async fn open(amqp_url: &str, name: &str) -> Self {
        let connection =
            Connection::connect(amqp_url, ConnectionProperties::default()).await.expect("connected");
        let channel = connection.create_channel().await.expect("channel");
        Self { channel, name: name.to_owned(), _connection: connection }
    }

    /// Returns the number of ready messages.
    pub async fn count(&self) -> u32 {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let name = self.name.as_str().into();
        let queue = self.channel.queue_declare(name, passive, FieldTable::default()).await;
        queue.expect("the queue answers").message_count()
    }

    /// Deletes the queue if it exists.
    pub async fn delete(&self) {
        let name = self.name.as_str().into();
        self.channel.queue_delete(name, QueueDeleteOptions::default()).await.expect("queue deleted");
    }
}
