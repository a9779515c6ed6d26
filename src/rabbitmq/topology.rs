//! Durable exchanges, queues and bindings: what a subscription needs, and how it is declared or verified.
//!
//! [`plan`] is pure and knows every name and argument; `declare` carries it out. Nothing here deletes or unbinds.

use std::{fmt, io};

use amq_protocol::{
    protocol::{AMQPClass, exchange, queue},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    connection::{CallError, ChannelId, Connection},
    endpoint::Endpoint,
    error::{BrokerError, DeclareError, Loss, Refusal, reply},
};

/// Header by which a partitioned subscription spreads messages over its queues.
const HASH_HEADER: &str = "aggregate-id";
/// Exchange type of the plugin `rabbitmq_consistent_hash_exchange`.
const CONSISTENT_HASH: &str = "x-consistent-hash";
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
    fn name(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
            Self::Stream => "stream",
        }
    }
}

/// A durable subscription: `[[subscriptions]]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Name of the queue; of the hash exchange and the prefix of the queues when there are partitions.
    pub queue: String,
    /// Topic exchange that messages are published to.
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
}

/// One thing to declare. Displayed as one line of `setup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declaration {
    /// A durable exchange.
    Exchange {
        /// Its name.
        name: String,
        /// Topic, or consistent hash on `aggregate-id`.
        kind: ExchangeType,
    },
    /// A durable queue.
    Queue {
        /// Its name.
        name: String,
        /// Its optional arguments, as [`plan`] sets them.
        arguments: Vec<(&'static str, Argument)>,
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

/// Types of the exchanges that are declared here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeType {
    /// `topic`.
    Topic,
    /// `x-consistent-hash`, of the plugin `rabbitmq_consistent_hash_exchange`.
    ConsistentHash,
}

/// An optional argument of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// AMQP long string.
    Text(String),
    /// AMQP boolean.
    Boolean(bool),
}

/// What a binding leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A queue.
    Queue(String),
    /// An exchange.
    Exchange(String),
}

/// Everything that the subscriptions need, in an order in which it can be declared, nothing twice.
pub fn plan(subscriptions: &[Subscription]) -> Vec<Declaration> {
    let mut plan = Vec::new();
    for subscription in subscriptions {
        for declaration in plan_one(subscription) {
            if !plan.contains(&declaration) {
                plan.push(declaration);
            }
        }
    }
    plan
}

fn plan_one(subscription: &Subscription) -> Vec<Declaration> {
    let Subscription { queue, exchange, binding_keys, queue_type, partitions, .. } = subscription;
    let keeps_one_by_one = *queue_type != QueueType::Stream;
    let mut plan = Vec::new();
    if !is_predeclared(exchange) {
        plan.push(Declaration::topic_exchange(exchange));
    }

    let mut arguments = vec![("x-queue-type", Argument::Text(queue_type.name().to_owned()))];
    if subscription.dead_letter && keeps_one_by_one {
        let dead = format!("{queue}.dead");
        plan.push(Declaration::Queue { name: dead.clone(), arguments: arguments.clone() });
        // The default exchange routes to the queue that the routing key names.
        arguments.push(("x-dead-letter-exchange", Argument::Text(String::new())));
        arguments.push(("x-dead-letter-routing-key", Argument::Text(dead)));
    }
    if subscription.single_active_consumer && keeps_one_by_one {
        arguments.push(("x-single-active-consumer", Argument::Boolean(true)));
    }

    let bind = |destination: Destination, source: &str, key: &str| Declaration::Binding {
        destination,
        source: source.to_owned(),
        key: key.to_owned(),
    };
    let entrance = if *partitions > 1 {
        plan.push(Declaration::Exchange { name: queue.clone(), kind: ExchangeType::ConsistentHash });
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
pub(super) fn is_predeclared(exchange: &str) -> bool {
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

/// Declares what the subscriptions need; with `declare` false only verifies that exchanges and queues are there, by passive
/// declares, which compare no arguments, and takes the bindings on trust: AMQP 0-9-1 has no way to ask for them.
///
/// The first failure ends it, and closes the channel.
pub(super) async fn declare(
    connection: &mut Connection,
    channel: ChannelId,
    subscriptions: &[Subscription],
    declare: bool,
) -> Result<(), BrokerError> {
    for declaration in plan(subscriptions) {
        declaration.apply(connection, channel, declare).await?;
    }
    Ok(())
}

impl Declaration {
    /// A durable exchange of type `topic`.
    pub(super) fn topic_exchange(name: &str) -> Self {
        Self::Exchange { name: name.to_owned(), kind: ExchangeType::Topic }
    }

    /// What to call it in an error: kind and name, without its arguments.
    pub fn object(&self) -> String {
        match self {
            Self::Exchange { name, kind } => format!("exchange '{name}' ({})", kind.name()),
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
    fn failure(&self, error: CallError, at: &Endpoint) -> BrokerError {
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
        let arguments = self.arguments()?;
        Ok(Some(match self {
            Self::Exchange { name, kind } => {
                AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
                    exchange: short(name)?,
                    kind: kind.name().into(),
                    passive: !create,
                    durable: true,
                    arguments,
                    ..Default::default()
                }))
            }
            Self::Queue { name, .. } => AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
                queue: short(name)?,
                passive: !create,
                durable: true,
                arguments,
                ..Default::default()
            })),
            Self::Binding { .. } if !create => return Ok(None),
            Self::Binding { destination: Destination::Queue(name), source, key } => {
                AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
                    queue: short(name)?,
                    exchange: short(source)?,
                    routing_key: short(key)?,
                    nowait: false,
                    arguments,
                }))
            }
            Self::Binding { destination: Destination::Exchange(name), source, key } => {
                AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
                    destination: short(name)?,
                    source: short(source)?,
                    routing_key: short(key)?,
                    nowait: false,
                    arguments,
                }))
            }
        }))
    }

    fn arguments(&self) -> io::Result<FieldTable> {
        let mut table = FieldTable::default();
        match self {
            Self::Exchange { kind: ExchangeType::ConsistentHash, .. } => {
                table.insert("hash-header".into(), AMQPValue::LongString(HASH_HEADER.into()));
            }
            Self::Queue { arguments, .. } => {
                for (name, value) in arguments {
                    table.insert(short(name)?, value.field());
                }
            }
            Self::Exchange { .. } | Self::Binding { .. } => {}
        }
        Ok(table)
    }
}

impl ExchangeType {
    fn name(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::ConsistentHash => CONSISTENT_HASH,
        }
    }
}

impl Argument {
    fn field(&self) -> AMQPValue {
        match self {
            Self::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Self::Boolean(boolean) => AMQPValue::Boolean(*boolean),
        }
    }
}

/// The codec's own conversion panics on more than 255 bytes.
pub(super) fn short(text: &str) -> io::Result<ShortString> {
    ShortString::try_new(text).map_err(io::Error::other)
}

impl fmt::Display for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange { name, kind: ExchangeType::Topic } => {
                write!(f, "exchange {name}: topic, durable")
            }
            Self::Exchange { name, kind: ExchangeType::ConsistentHash } => {
                write!(f, "exchange {name}: {CONSISTENT_HASH}, durable, hash-header={HASH_HEADER}")
            }
            Self::Queue { name, arguments } => {
                write!(f, "queue {name}: durable")?;
                arguments.iter().try_for_each(|(name, value)| write!(f, ", {name}={value}"))
            }
            Self::Binding { destination, source, key } => {
                write!(f, "binding {source} -> {destination}: {key}")
            }
        }
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) if text.is_empty() => write!(f, "\"\""),
            Self::Text(text) => f.write_str(text),
            Self::Boolean(boolean) => write!(f, "{boolean}"),
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
