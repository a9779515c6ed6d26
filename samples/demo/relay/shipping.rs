//! The service that ships orders: it consumes the queue that outboxd declared for it, and acknowledges what it gets.

use futures_util::StreamExt;
use lapin::{
    Connection, ConnectionProperties, Error,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use std::time::Duration;
use testkit::{Oracle, consumer::received};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    task::JoinHandle,
};

/// The queue of the configuration file.
pub(crate) const QUEUE: &str = "shipping.orders";

/// A running consumer; stops when dropped.
#[derive(Debug)]
pub(crate) struct Shipping {
    deliveries: UnboundedReceiver<Delivery>,
    task: JoinHandle<Result<(), Error>>,
}

impl Shipping {
    /// Consumes from now on, and tells the oracle what it receives.
    pub(crate) async fn start(url: &str, oracle: Oracle) -> Result<Self, Error> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(500, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let mut queue =
            channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default()).await?;
        let (seen, deliveries) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let _connection = connection;
            while let Some(delivery) = queue.next().await {
                let delivery = delivery?;
                oracle.received(received(&delivery));
                delivery.ack(BasicAckOptions::default()).await?;
                let _ = seen.send(delivery);
            }
            Ok(())
        });
        Ok(Self { deliveries, task })
    }

    /// The next message, if one arrives within `limit`.
    pub(crate) async fn next(&mut self, limit: Duration) -> Option<Delivery> {
        tokio::time::timeout(limit, self.deliveries.recv()).await.ok().flatten()
    }

    /// Lets go of messages that nobody has looked at.
    pub(crate) fn forget(&mut self) {
        while self.deliveries.try_recv().is_ok() {}
    }
}

impl Drop for Shipping {
    fn drop(&mut self) {
        self.task.abort();
    }
}
