//! Topology: durable exchanges, queues and bindings that subscriptions need.
//!
//! [`Topology::plan`] is pure and knows every name and argument; [`Topology::declare`] carries the plan out. Nothing
//! here deletes or unbinds.

mod argument;
mod declaration;

pub use argument::Argument;
pub use declaration::{Declaration, Destination};

use crate::{
    connection::{ChannelId, Connection},
    error::BrokerError,
};

/// Type of an exchange that no [`Exchange`] describes.
pub const TOPIC: &str = "topic";
/// Exchange type of the plugin `rabbitmq_consistent_hash_exchange`.
pub const CONSISTENT_HASH: &str = "x-consistent-hash";
/// Exchange type of the plugin `rabbitmq_delayed_message_exchange`, which returns each message that it delays and
/// later delivers.
pub const DELAYED_MESSAGE: &str = "x-delayed-message";
/// Routing key that binds a queue to a consistent-hash exchange: its share of the ring.
const EQUAL_SHARE: &str = "1";

/// Queue types of RabbitMQ (`x-queue-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated queue (Raft).
    Quorum,
    /// Queue on one node.
    Classic,
    /// Append-only log. Has neither dead letters nor a single active consumer.
    Stream,
}

impl QueueType {
    /// Returns the value of `x-queue-type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
            Self::Stream => "stream",
        }
    }
}

/// Exchanges and subscriptions that exist, or are declared, before the first publish.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Set to declare exchanges, queues and bindings. Otherwise their existence is verified.
    pub declare: bool,
    /// Exchanges that are not durable topics without arguments.
    pub exchanges: Vec<Exchange>,
    /// Durable subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// Header whose value selects the partition.
    pub partition_header: &'static str,
}

/// A durable subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Name of the queue. With partitions, name of the hash exchange and prefix of the queues.
    pub queue: String,
    /// Exchange that gets the messages: a durable topic, unless an [`Exchange`] describes it.
    pub exchange: String,
    /// Binding keys from the exchange.
    pub binding_keys: Vec<String>,
    /// Type of the queue, or of each partition.
    pub queue_type: QueueType,
    /// Number of queues. N > 1: queues `<queue>-0` to `<queue>-<N-1>` behind a consistent-hash exchange `<queue>` on
    /// [`Topology::partition_header`]. Messages with the same value stay in one queue.
    pub partitions: u32,
    /// Set if only one consumer of a queue gets messages at a time, which keeps their order. Not for streams.
    pub single_active_consumer: bool,
    /// Set if rejected messages go to `<queue>.dead`, a queue of the same type. Not for streams.
    pub dead_letter: bool,
    /// Further arguments of the queue, or of each partition, ordered by name. The dead-letter queue gets none.
    pub arguments: Vec<(String, Argument)>,
}

/// Description of an exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// Name of the exchange.
    pub name: String,
    /// Type of the exchange, as the broker calls it.
    pub kind: String,
    /// Set if the exchange survives a restart of the broker.
    pub durable: bool,
    /// Set if messages are published as `mandatory`, so that the broker returns those that no queue is bound for.
    pub mandatory: bool,
    /// Arguments of the exchange, ordered by name.
    pub arguments: Vec<(String, Argument)>,
}

impl Topology {
    /// Returns all declarations, each once, in an order in which they can be declared.
    pub fn plan(&self) -> Vec<Declaration> {
        let described = self.exchanges.iter().filter(|exchange| !is_predeclared(&exchange.name));
        let mut plan: Vec<_> = described.map(Declaration::exchange).collect();
        for subscription in &self.subscriptions {
            for declaration in self.plan_of(subscription) {
                if !plan.contains(&declaration) {
                    plan.push(declaration);
                }
            }
        }
        plan
    }

    /// Returns the declarations of one subscription, including its exchange.
    pub(crate) fn plan_of(&self, subscription: &Subscription) -> Vec<Declaration> {
        let Subscription { queue, exchange, binding_keys, queue_type, partitions, .. } = subscription;
        let keeps_one_by_one = *queue_type != QueueType::Stream;
        let mut plan = Vec::new();
        if !is_predeclared(exchange) {
            let described = self.exchanges.iter().find(|described| described.name == *exchange);
            plan.push(described.map_or_else(|| Declaration::topic_exchange(exchange), Declaration::exchange));
        }

        let text = |name: &str, text: &str| (name.to_owned(), Argument::Text(text.to_owned()));
        let mut arguments = vec![text("x-queue-type", queue_type.name())];
        if subscription.dead_letter && keeps_one_by_one {
            let dead = format!("{queue}.dead");
            plan.push(Declaration::Queue { name: dead.clone(), arguments: arguments.clone() });
            // The default exchange routes to the queue named by the routing key.
            arguments.push(text("x-dead-letter-exchange", ""));
            arguments.push(text("x-dead-letter-routing-key", &dead));
        }
        if subscription.single_active_consumer && keeps_one_by_one {
            arguments.push(("x-single-active-consumer".to_owned(), Argument::Boolean(true)));
        }
        arguments.extend(subscription.arguments.iter().cloned());

        let bind = |destination: Destination, source: &str, key: &str| Declaration::Binding {
            destination,
            source: source.to_owned(),
            key: key.to_owned(),
        };
        let entrance = if *partitions > 1 {
            plan.push(Declaration::Exchange {
                name: queue.clone(),
                kind: CONSISTENT_HASH.to_owned(),
                durable: true,
                arguments: vec![text("hash-header", self.partition_header)],
            });
            for number in 0..*partitions {
                let name = format!("{queue}-{number}");
                plan.push(Declaration::Queue { name: name.clone(), arguments: arguments.clone() });
                plan.push(bind(Destination::Queue(name), queue, EQUAL_SHARE));
            }
            Destination::Exchange(queue.clone())
        } else {
            plan.push(Declaration::Queue { name: queue.clone(), arguments });
            Destination::Queue(queue.clone())
        };
        plan.extend(binding_keys.iter().map(|key| bind(entrance.clone(), exchange, key)));
        plan
    }

    /// Declares exchanges, queues and bindings. Without [`Topology::declare`] verifies that exchanges and queues
    /// exist, by passive declarations, which compare no arguments. Bindings are not verified: AMQP 0-9-1 cannot query
    /// them.
    ///
    /// # Errors
    ///
    /// [`BrokerError`] of the first failure, after which the channel is closed.
    pub async fn declare(&self, connection: &mut Connection, channel: ChannelId) -> Result<(), BrokerError> {
        for declaration in self.plan() {
            declaration.apply(connection, channel, self.declare).await?;
        }
        Ok(())
    }
}

/// Tells whether an exchange is predeclared: the default exchange, or one that every virtual host has. The broker
/// refuses to declare any other `amq.*` (403), and closes the channel for each publish to one that does not exist.
pub fn is_predeclared(exchange: &str) -> bool {
    const OWN: [&str; 8] = [
        "",
        "amq.direct",
        "amq.fanout",
        "amq.headers",
        "amq.match",
        "amq.topic",
        "amq.rabbitmq.trace",
        "amq.rabbitmq.event",
    ];
    OWN.contains(&exchange)
}
