//! A queue read message by message, for tests of all parts of a message.

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    message::Delivery,
    options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use std::time::Duration;

use crate::stage::PATIENCE;

pub(crate) struct Inbox {
    _connection: Connection,
    _channel: Channel,
    deliveries: lapin::Consumer,
}

impl Inbox {
    /// Declares the queue and binds it to all messages of these topic exchanges.
    pub(crate) async fn bind(url: &str, queue: &str, exchanges: &[&str]) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        for exchange in exchanges {
            let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
            let table = FieldTable::default();
            channel.exchange_declare((*exchange).into(), ExchangeKind::Topic, options, table).await.unwrap();
            let options = QueueBindOptions::default();
            let table = FieldTable::default();
            channel.queue_bind(queue.into(), (*exchange).into(), "#".into(), options, table).await.unwrap();
        }
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let deliveries =
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
        Self { _connection: connection, _channel: channel, deliveries }
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = Delivery> {
        let caller = std::panic::Location::caller();
        async move {
            let next = tokio::time::timeout(PATIENCE, self.deliveries.next()).await;
            next.unwrap_or_else(|_| panic!("no message for {caller}")).expect("the queue is there").unwrap()
        }
    }

    /// The bodies of the next messages, as text.
    pub(crate) async fn bodies(&mut self, count: usize) -> Vec<String> {
        let mut bodies = Vec::new();
        while bodies.len() < count {
            bodies.push(text(&self.next().await));
        }
        bodies
    }

    /// Checks that the queue is empty and stays empty for a moment.
    #[track_caller]
    pub(crate) fn stays_empty(&mut self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let more = tokio::time::timeout(Duration::from_millis(700), self.deliveries.next()).await;
            if let Ok(Some(Ok(more))) = more {
                panic!("{caller}: a message too many: {:?} {}", more.properties, text(&more));
            }
        }
    }
}

/// The body as text.
pub(crate) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.data).into_owned()
}

/// A header's value.
pub(crate) fn header(delivery: &Delivery, name: &str) -> Option<AMQPValue> {
    delivery.properties.headers().as_ref()?.inner().get(name).cloned()
}

/// A header that must be text.
pub(crate) fn text_header(delivery: &Delivery, name: &str) -> String {
    match header(delivery, name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("header {name} is {other:?}"),
    }
}
