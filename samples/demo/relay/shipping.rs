//! Shipping service of the demo: consumes the queue that outboxd declared, and acknowledges its messages.

use lapin::{Error, message::Delivery, options::BasicAckOptions, types::FieldTable};
use std::time::Duration;
use testkit::{
    Oracle,
    consumer::{Reading, received},
};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    task::JoinHandle,
};

/// Queue of the configuration file.
pub(crate) const QUEUE: &str = "shipping.orders";

/// Running consumer. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Shipping {
    deliveries: UnboundedReceiver<Delivery>,
    task: JoinHandle<Result<(), Error>>,
}

impl Shipping {
    /// Consumes from now on, and reports messages to the oracle.
    pub(crate) async fn start(url: &str, oracle: Oracle) -> Result<Self, Error> {
        let mut reading = Reading::open(url, QUEUE, 500, FieldTable::default()).await?;
        let (seen, deliveries) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Some(delivery) = reading.next().await? {
                oracle.received(received(&delivery));
                delivery.ack(BasicAckOptions::default()).await?;
                let _ = seen.send(delivery);
            }
            Ok(())
        });
        Ok(Self { deliveries, task })
    }

    /// Returns the next message, if one arrives within `limit`.
    pub(crate) async fn next(&mut self, limit: Duration) -> Option<Delivery> {
        tokio::time::timeout(limit, self.deliveries.recv()).await.ok().flatten()
    }

    /// Drops messages that nobody has shown.
    pub(crate) fn forget(&mut self) {
        while self.deliveries.try_recv().is_ok() {}
    }
}

impl Drop for Shipping {
    fn drop(&mut self) {
        self.task.abort();
    }
}
