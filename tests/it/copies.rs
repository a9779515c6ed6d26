//! Counts the copies of each message in a queue, also in a queue with a limit.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use lapin::{
    ExchangeKind,
    options::{BasicAckOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::task::JoinHandle;

use crate::stage::eventually;
use testkit::consumer::{self, Reading};

/// Reads a queue to its end and counts.
pub(crate) struct Copies {
    seen: Arc<Mutex<HashMap<String, usize>>>,
    task: JoinHandle<()>,
}

/// Declares a durable queue with these arguments and binds it to a topic exchange.
pub(crate) async fn bound_queue(
    url: &str,
    queue: &str,
    exchange: &str,
    key: &str,
    arguments: &[(&str, AMQPValue)],
) {
    let (connection, channel) = consumer::connect(url).await.unwrap();
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let table = FieldTable::default();
    channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, table.clone()).await.unwrap();
    let mut with = FieldTable::default();
    for (name, value) in arguments {
        with.insert((*name).into(), value.clone());
    }
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), durable, with).await.unwrap();
    let options = QueueBindOptions::default();
    channel.queue_bind(queue.into(), exchange.into(), key.into(), options, table).await.unwrap();
    connection.close(200, "bound".into()).await.unwrap();
}

impl Copies {
    /// Counts the messages of a queue from now on.
    pub(crate) async fn of(url: &str, queue: &str) -> Self {
        let seen = Arc::<Mutex<HashMap<String, usize>>>::default();
        let mut reading = Reading::open(url, queue, 100, FieldTable::default()).await.unwrap();
        let counted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok(Some(delivery)) = reading.next().await {
                let id = delivery.properties.message_id().as_ref().unwrap().to_string();
                *counted.lock().unwrap().entry(id).or_default() += 1;
                delivery.ack(BasicAckOptions::default()).await.unwrap();
            }
        });
        Self { seen, task }
    }

    /// Waits until that many different messages have arrived.
    pub(crate) async fn until(&self, messages: usize) {
        eventually("messages arrive", async || self.seen.lock().unwrap().len() >= messages).await;
    }

    /// Number of different messages, and the highest number of copies of one.
    pub(crate) fn count(&self) -> (usize, usize) {
        let seen = self.seen.lock().unwrap();
        (seen.len(), seen.values().copied().max().unwrap_or(0))
    }

    /// Number of deliveries.
    pub(crate) fn total(&self) -> usize {
        self.seen.lock().unwrap().values().sum()
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.task.abort();
    }
}
