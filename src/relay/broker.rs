//! The relay's view of a broker, and its implementation by RabbitMQ. See [`database`](super::database) for the reason.

use crate::{ledger::PublishTag, message::Message};
use amqp_publisher::{
    BrokerError, PublisherOptions,
    publisher::{self, PublisherEvent},
    subscriptions::SubscriptionWatch,
};

/// A broker that outboxd can connect to.
pub trait Broker: Clone + Send + Sync + 'static {
    /// A connection that publishes.
    type Publisher: Publisher;

    /// Connects, and declares the subscriptions' topology.
    ///
    /// # Errors
    ///
    /// [`BrokerError`]: no connection, or the broker refuses a declaration.
    fn connect(
        &self,
        connection_name: &str,
        attempt: usize,
    ) -> impl Future<Output = Result<Self::Publisher, BrokerError>> + Send;

    /// Watch over the subscriptions' queues.
    fn watch(&self) -> SubscriptionWatch {
        SubscriptionWatch::default()
    }
}

/// A connection that publishes, with confirms.
pub trait Publisher: Send {
    /// Asks for the exclusive right to publish, which the broker grants by the queue named `queue`. Nothing is published until
    /// [`PublisherEvent::Fence`] reports the answer.
    fn fence(&mut self, queue: &str);

    /// Checks whether a message fits into the frames of this connection.
    ///
    /// # Errors
    ///
    /// The limit that the message exceeds, in words.
    fn check(&self, message: &Message) -> Result<(), String>;

    /// Hands a message over. [`next`](Self::next) publishes messages in the order of these calls.
    fn publish(&mut self, tag: PublishTag, message: Message);

    /// Number of messages published on this connection: their frames were handed to it, repeats included.
    fn published(&self) -> u64;

    /// Publishes, and waits for the broker's next event. Cancel-safe. Pending for ever while there is nothing to do.
    ///
    /// # Errors
    ///
    /// [`BrokerError`] that ended the connection.
    fn next(&mut self) -> impl Future<Output = Result<PublisherEvent, BrokerError>> + Send;

    /// Closes the connection in good order.
    fn close(self) -> impl Future<Output = ()> + Send;
}

impl Broker for PublisherOptions {
    type Publisher = publisher::Publisher;

    async fn connect(
        &self,
        connection_name: &str,
        attempt: usize,
    ) -> Result<publisher::Publisher, BrokerError> {
        publisher::Publisher::connect(self, connection_name, attempt).await
    }

    fn watch(&self) -> SubscriptionWatch {
        self.watch.clone()
    }
}

impl Publisher for publisher::Publisher {
    fn fence(&mut self, queue: &str) {
        self.fence(queue);
    }

    fn check(&self, message: &Message) -> Result<(), String> {
        self.check(&message.amqp)
    }

    fn publish(&mut self, tag: PublishTag, message: Message) {
        self.publish(tag, message.amqp);
    }

    fn published(&self) -> u64 {
        self.published()
    }

    async fn next(&mut self) -> Result<PublisherEvent, BrokerError> {
        self.next().await
    }

    async fn close(self) {
        self.close().await;
    }
}
