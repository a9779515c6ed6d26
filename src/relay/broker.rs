//! What the relay asks of a broker, and that RabbitMQ answers it. See [`database`](super::database) for why.

use crate::{ledger::PublishTag, message::Message};
use amqp_publisher::{
    BrokerError, PublisherOptions,
    publisher::{self, PublisherEvent},
    subscriptions::SubscriptionWatch,
};

/// A broker that can be reached.
pub trait Broker: Clone + Send + Sync + 'static {
    /// A connection that publishes.
    type Publisher: Publisher;

    /// Connects, and declares the subscriptions' topology.
    fn connect(
        &self,
        connection_name: &str,
        attempt: usize,
    ) -> impl Future<Output = Result<Self::Publisher, BrokerError>> + Send;

    /// Watch over the subscriptions.
    fn watch(&self) -> SubscriptionWatch {
        SubscriptionWatch::default()
    }
}

/// A connection that publishes, with confirms.
pub trait Publisher: Send {
    /// Asks for the exclusive right to publish, known to the broker by `queue`; nothing goes out until
    /// [`PublisherEvent::Fence`] tells that it is held, or denied.
    fn fence(&mut self, queue: &str);

    /// Tells whether a message fits into the frames of this connection; else why not.
    fn check(&self, message: &Message) -> Result<(), String>;

    /// Hands a message over; it is published, in the order of these calls, when [`next`](Self::next) is polled.
    fn publish(&mut self, tag: PublishTag, message: Message);

    /// Publishes, and gives what the broker says. Cancel-safe. Pends for ever while there is nothing to do.
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

    async fn next(&mut self) -> Result<PublisherEvent, BrokerError> {
        self.next().await
    }

    async fn close(self) {
        self.close().await;
    }
}
