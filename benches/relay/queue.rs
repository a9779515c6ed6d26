//! The queue that everybody publishes to, as an observer sees it: the same for every relay, and no work for any of them.

use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

/// Where every relay publishes to.
pub const EXCHANGE: &str = "Order.events";
/// The queue bound to it for everything.
pub const QUEUE: &str = "bench";

/// The queue, just made and empty.
pub struct Queue {
    channel: Channel,
    name: String,
    _connection: Connection,
}

impl Queue {
    /// Makes the queue anew, of type `quorum`, `classic` or `stream`: what an earlier drain left on the broker's disk counts for nobody.
    pub async fn fresh(amqp_url: &str, kind: &str) -> Self {
        Self::named(amqp_url, QUEUE, kind).await
    }

    /// As [`Queue::fresh`], with another name.
    pub async fn named(amqp_url: &str, name: &str, kind: &str) -> Self {
        let connection =
            Connection::connect(amqp_url, ConnectionProperties::default()).await.expect("connected");
        let channel = connection.create_channel().await.expect("channel");
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, FieldTable::default())
            .await
            .expect("exchange");
        channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.expect("queue deleted");
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(name.into(), durable, arguments).await.expect("queue");
        channel
            .queue_bind(
                name.into(),
                EXCHANGE.into(),
                "#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("binding");
        Self { channel, name: name.to_owned(), _connection: connection }
    }

    /// Messages in it that are ready.
    pub async fn count(&self) -> u32 {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = self
            .channel
            .queue_declare(self.name.as_str().into(), passive, FieldTable::default())
            .await
            .expect("the queue answers");
        queue.message_count()
    }

    /// The channel it is watched on.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }
}
