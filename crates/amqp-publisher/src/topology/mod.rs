//! Durable exchanges, queues and bindings: what a subscription needs, and how it is declared or verified.
//!
//! [`Topology::plan`] is pure and knows every name and argument; [`Topology::declare`] carries it out. Nothing here deletes or
//! unbinds.

mod argument;
mod declaration;

pub use argument::Argument;
pub use declaration::{Declaration, Destination};

use crate::{
    connection::{ChannelId, Connection},
    error::BrokerError,
};

/// The type of an exchange that no [`Exchange`] describes.
pub const TOPIC: &str = "topic";
/// Exchange type of the plugin `rabbitmq_consistent_hash_exchange`.
pub const CONSISTENT_HASH: &str = "x-consistent-hash";
/// Exchange type of the plugin `rabbitmq_delayed_message_exchange`. It returns what it delays, and delivers it all the same.
pub const DELAYED_MESSAGE: &str = "x-delayed-message";
/// Routing key with which a queue is bound to a consistent-hash exchange: its share of the ring.
const EQUAL_SHARE: &str = "1";

/// RabbitMQ's kinds of queue, its argument `x-queue-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated by Raft.
    Quorum,
    /// On one node.
    Classic,
    /// An append-only log. Has no dead letters and no single active consumer.
    Stream,
}

impl QueueType {
    /// The value of `x-queue-type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
            Self::Stream => "stream",
        }
    }
}

/// Exchanges and subscriptions that are there, or declared, before anything is published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Declare exchanges, queues and bindings; otherwise only verify that they are there.
    pub declare: bool,
    /// Exchanges that are not durable topics without arguments.
    pub exchanges: Vec<Exchange>,
    /// Durable subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// Header by which a subscription with partitions spreads messages over its queues.
    pub partition_header: &'static str,
}

/// A durable subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Name of the queue; of the hash exchange and the prefix of the queues when there are partitions.
    pub queue: String,
    /// Exchange that messages are published to; a durable topic, unless an [`Exchange`] describes it.
    pub exchange: String,
    /// Binding keys from the exchange.
    pub binding_keys: Vec<String>,
    /// Kind of the queue, or of each of its partitions.
    pub queue_type: QueueType,
    /// 1 for one queue. N > 1: queues `<queue>-0` to `<queue>-<N-1>` behind a consistent-hash exchange `<queue>` on
    /// [`Topology::partition_header`], so that messages with the same value stay in one of them.
    pub partitions: u32,
    /// Set when only one consumer of a queue gets messages at a time, which keeps their order. Not for streams.
    pub single_active_consumer: bool,
    /// Set when rejected messages go to `<queue>.dead`, a queue of the same type. Not for streams.
    pub dead_letter: bool,
    /// Further arguments of the queue, or of each of its partitions, in the order of their names. The dead-letter queue has none.
    pub arguments: Vec<(String, Argument)>,
}

/// An exchange that is described, and not just named.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// Name of the exchange.
    pub name: String,
    /// Type of the exchange, as the broker calls it.
    pub kind: String,
    /// Set when it survives a restart of the broker.
    pub durable: bool,
    /// Set when the broker is to return a message that no queue is bound for.
    pub mandatory: bool,
    /// Arguments of the exchange, in the order of their names.
    pub arguments: Vec<(String, Argument)>,
}

impl Topology {
    /// Everything that the exchanges and subscriptions need, in an order in which it can be declared, nothing twice.
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

    /// Everything that one subscription needs, the exchange that it is bound to included.
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
            // The default exchange routes to the queue that the routing key names.
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

    /// Declares what the exchanges and subscriptions need; without [`Topology::declare`] only verifies that exchanges and
    /// queues are there, by passive declares, which compare no arguments, and takes the bindings on trust: AMQP 0-9-1 has no way
    /// to ask for them.
    ///
    /// # Errors
    ///
    /// The first failure, which ends it and closes the channel.
    pub async fn declare(&self, connection: &mut Connection, channel: ChannelId) -> Result<(), BrokerError> {
        for declaration in self.plan() {
            declaration.apply(connection, channel, self.declare).await?;
        }
        Ok(())
    }
}

/// Tells whether an exchange is the broker's own: the default exchange and those that every virtual host has. Nobody may declare
/// another `amq.*`, which the broker then says by name (403); publishing to one unknown would cost the channel each time.
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
