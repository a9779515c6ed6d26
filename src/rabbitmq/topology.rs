//! Durable exchanges, queues and bindings: what a subscription needs, and how it is declared or verified.
//!
//! [`plan`] is pure and knows every name and argument; `declare` carries it out. Nothing here deletes or unbinds.

mod argument;

use std::{fmt, io};

use amq_protocol::{
    protocol::{AMQPClass, exchange, queue},
    types::ShortString,
};

pub use argument::Argument;

use super::{
    broker::BrokerOptions,
    connection::{CallError, ChannelId, Connection},
    endpoint::Endpoint,
    error::{BrokerError, DeclareError, Loss, Refusal, reply},
};

/// Header by which a partitioned subscription spreads messages over its queues.
const HASH_HEADER: &str = "aggregate-id";
/// The type of an exchange that no entry of `[[exchanges]]` describes.
pub(super) const TOPIC: &str = "topic";
/// Exchange type of the plugin `rabbitmq_consistent_hash_exchange`.
pub const CONSISTENT_HASH: &str = "x-consistent-hash";
/// Exchange type of the plugin `rabbitmq_delayed_message_exchange`. It returns what it delays, and delivers it all the same.
pub const DELAYED_MESSAGE: &str = "x-delayed-message";
/// Of an exchange's arguments the only one that the broker compares with what is there.
const ALTERNATE_EXCHANGE: &str = "alternate-exchange";
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

/// A durable subscription: `[[subscriptions]]` of the configuration.
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
    /// `aggregate-id`, so that the messages of one aggregate stay in one of them.
    pub partitions: u32,
    /// Whether only one consumer of a queue gets messages at a time, which keeps their order. Not for streams.
    pub single_active_consumer: bool,
    /// Whether rejected messages go to `<queue>.dead`, a queue of the same type. Not for streams.
    pub dead_letter: bool,
    /// Further arguments of the queue, or of each of its partitions, in the order of their names. The dead-letter queue has none.
    pub arguments: Vec<(String, Argument)>,
}

/// An exchange that is described: `[[exchanges]]` of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// Name of the exchange.
    pub name: String,
    /// Type of the exchange, as the broker calls it.
    pub kind: String,
    /// Whether it survives a restart of the broker.
    pub durable: bool,
    /// Set when the broker is to return a message that no queue is bound for.
    pub mandatory: bool,
    /// Arguments of the exchange, in the order of their names.
    pub arguments: Vec<(String, Argument)>,
}

/// One thing to declare. Displayed as one line of `setup`.
#[derive(Clone, Debug, PartialEq)]
pub enum Declaration {
    /// An exchange.
    Exchange {
        /// Its name.
        name: String,
        /// Type of the exchange.
        kind: String,
        /// Whether it survives a restart of the broker.
        durable: bool,
        /// Optional arguments.
        arguments: Vec<(String, Argument)>,
    },
    /// A durable queue.
    Queue {
        /// Its name.
        name: String,
        /// Its optional arguments, as [`plan`] sets them.
        arguments: Vec<(String, Argument)>,
    },
    /// A binding of an exchange or queue to an exchange.
    Binding {
        /// What is bound.
        destination: Destination,
        /// The exchange that it is bound to.
        source: String,
        /// The binding key.
        key: String,
    },
}

/// What a binding leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A queue.
    Queue(String),
    /// An exchange.
    Exchange(String),
}

/// Everything that the exchanges and subscriptions need, in an order in which it can be declared, nothing twice.
pub fn plan(exchanges: &[Exchange], subscriptions: &[Subscription]) -> Vec<Declaration> {
    let described = exchanges.iter().filter(|exchange| !is_predeclared(&exchange.name));
    let mut plan: Vec<_> = described.map(Declaration::exchange).collect();
    for subscription in subscriptions {
        for declaration in plan_one(exchanges, subscription) {
            if !plan.contains(&declaration) {
                plan.push(declaration);
            }
        }
    }
    plan
}

/// Everything that one subscription needs, the exchange that it is bound to included.
pub(super) fn plan_one(exchanges: &[Exchange], subscription: &Subscription) -> Vec<Declaration> {
    let Subscription { queue, exchange, binding_keys, queue_type, partitions, .. } = subscription;
    let keeps_one_by_one = *queue_type != QueueType::Stream;
    let mut plan = Vec::new();
    if !is_predeclared(exchange) {
        let described = exchanges.iter().find(|described| described.name == *exchange);
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
            arguments: vec![text("hash-header", HASH_HEADER)],
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

/// Whether an exchange is the broker's own: the default exchange and those that every virtual host has. Nobody may declare
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

/// Declares what the exchanges and `subscriptions` need; without [`BrokerOptions::declare`] only verifies that exchanges and
/// queues are there, by passive declares, which compare no arguments, and takes the bindings on trust: AMQP 0-9-1 has no way to
/// ask for them.
///
/// The first failure ends it, and closes the channel.
pub(super) async fn declare(
    connection: &mut Connection,
    channel: ChannelId,
    options: &BrokerOptions,
    subscriptions: &[Subscription],
) -> Result<(), BrokerError> {
    for declaration in plan(&options.exchanges, subscriptions) {
        declaration.apply(connection, channel, options.declare).await?;
    }
    Ok(())
}

impl Declaration {
    /// A durable exchange of type `topic`.
    pub(super) fn topic_exchange(name: &str) -> Self {
        Self::Exchange { name: name.to_owned(), kind: TOPIC.to_owned(), durable: true, arguments: Vec::new() }
    }

    fn exchange(Exchange { name, kind, durable, arguments, .. }: &Exchange) -> Self {
        Self::Exchange {
            name: name.clone(),
            kind: kind.clone(),
            durable: *durable,
            arguments: arguments.clone(),
        }
    }

    /// Names of the arguments that the broker does not compare with those of an exchange that is there.
    pub(super) fn uncompared(&self) -> Vec<&str> {
        let Self::Exchange { arguments, .. } = self else { return Vec::new() };
        arguments.iter().map(|(name, _)| &**name).filter(|name| *name != ALTERNATE_EXCHANGE).collect()
    }

    /// What to call it in an error: kind and name, without its arguments.
    pub fn object(&self) -> String {
        match self {
            Self::Exchange { name, kind, .. } => format!("exchange '{name}' ({kind})"),
            Self::Queue { name, .. } => format!("queue '{name}'"),
            Self::Binding { destination, source, key } => {
                format!("binding of {destination} to exchange '{source}' by key '{key}'")
            }
        }
    }

    /// Declares it, or with `create` false looks whether it is there. A binding is then left alone.
    pub(super) async fn apply(
        &self,
        connection: &mut Connection,
        channel: ChannelId,
        create: bool,
    ) -> Result<(), BrokerError> {
        match self.method(create) {
            Ok(Some(method)) => match connection.call(channel, method).await {
                Ok(_) => Ok(()),
                Err(error) => Err(self.failure(error, connection.at())),
            },
            Ok(None) => Ok(()),
            Err(error) => Err(Loss::Broken(error).at(connection.at())),
        }
    }

    /// What is the matter when it could not be declared.
    pub(super) fn failure(&self, error: CallError, at: &Endpoint) -> BrokerError {
        match error {
            CallError::Refused(refusal) => self.refused(refusal, at),
            // An exchange type that it does not know, or a failure inside it, is a reason for the broker to close the whole connection.
            CallError::Lost(Loss::Closed(refusal))
                if matches!(refusal.code, reply::COMMAND_INVALID | reply::INTERNAL_ERROR) =>
            {
                self.refused(refusal, at)
            }
            error => error.at(at),
        }
    }

    /// What is the matter when the broker closed the channel for it.
    pub(super) fn refused(&self, refusal: Refusal, at: &Endpoint) -> BrokerError {
        BrokerError::Declare { at: at.clone(), error: DeclareError::new(self.object(), refusal) }
    }

    /// What to ask for; nothing when there is no way to ask.
    pub(super) fn method(&self, create: bool) -> io::Result<Option<AMQPClass>> {
        Ok(Some(match self {
            Self::Exchange { name, kind, durable, arguments } => {
                AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
                    exchange: short(name)?,
                    kind: short(kind)?,
                    passive: !create,
                    durable: *durable,
                    arguments: argument::table(arguments)?,
                    ..Default::default()
                }))
            }
            Self::Queue { name, arguments } => AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
                queue: short(name)?,
                passive: !create,
                durable: true,
                arguments: argument::table(arguments)?,
                ..Default::default()
            })),
            Self::Binding { .. } if !create => return Ok(None),
            Self::Binding { destination: Destination::Queue(name), source, key } => {
                AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
                    queue: short(name)?,
                    exchange: short(source)?,
                    routing_key: short(key)?,
                    ..Default::default()
                }))
            }
            Self::Binding { destination: Destination::Exchange(name), source, key } => {
                AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
                    destination: short(name)?,
                    source: short(source)?,
                    routing_key: short(key)?,
                    ..Default::default()
                }))
            }
        }))
    }
}

/// The codec's own conversion panics on more than 255 bytes.
pub(super) fn short(text: &str) -> io::Result<ShortString> {
    ShortString::try_new(text).map_err(io::Error::other)
}

impl fmt::Display for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, arguments: &[(String, Argument)]| {
            arguments.iter().try_for_each(|(name, value)| write!(f, ", {name}={value}"))
        };
        match self {
            Self::Exchange { name, kind, durable, arguments } => {
                let durable = if *durable { "durable" } else { "gone after a restart of the broker" };
                write!(f, "exchange {name}: {kind}, {durable}")?;
                list(f, arguments)
            }
            Self::Queue { name, arguments } => {
                write!(f, "queue {name}: durable")?;
                list(f, arguments)
            }
            Self::Binding { destination, source, key } => {
                write!(f, "binding {source} -> {destination}: {key}")
            }
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(name) => write!(f, "queue {name}"),
            Self::Exchange(name) => write!(f, "exchange {name}"),
        }
    }
}
