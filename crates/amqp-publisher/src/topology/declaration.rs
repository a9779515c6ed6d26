//! Declaration of one exchange, queue or binding.

use std::{fmt, io};

use amq_protocol::protocol::{AMQPClass, exchange, queue};

use super::{
    Exchange, TOPIC,
    argument::{self, Argument},
};
use crate::{
    connection::{CallError, ChannelId, Connection, endpoint::Endpoint},
    error::{BrokerError, DeclareError, Loss},
    refusal::{Refusal, reply},
    short_string::short,
};

/// The only argument of an exchange that the broker compares with an existing one.
const ALTERNATE_EXCHANGE: &str = "alternate-exchange";

/// Declaration of one object. Displayed on one line.
#[derive(Clone, Debug, PartialEq)]
pub enum Declaration {
    /// An exchange.
    Exchange {
        /// Name of the exchange.
        name: String,
        /// Type of the exchange.
        kind: String,
        /// Set if the exchange survives a restart of the broker.
        durable: bool,
        /// Optional arguments.
        arguments: Vec<(String, Argument)>,
    },
    /// A durable queue.
    Queue {
        /// Name of the queue.
        name: String,
        /// Optional arguments, as [`Topology::plan`](super::Topology::plan) sets them.
        arguments: Vec<(String, Argument)>,
    },
    /// A binding of an exchange or queue to an exchange.
    Binding {
        /// Exchange or queue at the end of the binding.
        destination: Destination,
        /// Exchange at the start of the binding.
        source: String,
        /// The binding key.
        key: String,
    },
}

/// Destination of a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A queue.
    Queue(String),
    /// An exchange.
    Exchange(String),
}

impl Declaration {
    /// Returns a durable exchange of type `topic`.
    pub fn topic_exchange(name: &str) -> Self {
        Self::Exchange { name: name.to_owned(), kind: TOPIC.to_owned(), durable: true, arguments: Vec::new() }
    }

    pub(crate) fn exchange(Exchange { name, kind, durable, arguments, .. }: &Exchange) -> Self {
        Self::Exchange {
            name: name.clone(),
            kind: kind.clone(),
            durable: *durable,
            arguments: arguments.clone(),
        }
    }

    /// Returns the names of the arguments that the broker does not compare with those of an existing exchange.
    pub fn uncompared(&self) -> Vec<&str> {
        let Self::Exchange { arguments, .. } = self else { return Vec::new() };
        arguments.iter().map(|(name, _)| &**name).filter(|name| *name != ALTERNATE_EXCHANGE).collect()
    }

    /// Returns the object's name in an error: kind and name, without arguments.
    pub fn object(&self) -> String {
        match self {
            Self::Exchange { name, kind, .. } => format!("exchange '{name}' ({kind})"),
            Self::Queue { name, .. } => format!("queue '{name}'"),
            Self::Binding { destination, source, key } => {
                format!("binding of {destination} to exchange '{source}' by key '{key}'")
            }
        }
    }

    /// Declares the object. With `create` false only checks that it exists; a binding is then not checked.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Declare`] when the broker refuses, which closes the channel; otherwise the connection is lost.
    pub async fn apply(
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

    /// Returns the error of a failed declaration.
    pub(crate) fn failure(&self, error: CallError, at: &Endpoint) -> BrokerError {
        match error {
            CallError::Refused(refusal) => self.refused(refusal, at),
            // RabbitMQ closes the whole connection for an unknown exchange type or an internal failure.
            CallError::Lost(Loss::Closed(refusal))
                if matches!(refusal.code, reply::COMMAND_INVALID | reply::INTERNAL_ERROR) =>
            {
                self.refused(refusal, at)
            }
            error => error.at(at),
        }
    }

    /// Returns the error of a channel that was closed for the declaration.
    fn refused(&self, refusal: Refusal, at: &Endpoint) -> BrokerError {
        BrokerError::Declare { at: at.clone(), error: DeclareError::new(self.object(), refusal) }
    }

    /// Returns the method that declares or checks the object; `None` if AMQP has none.
    pub(crate) fn method(&self, create: bool) -> io::Result<Option<AMQPClass>> {
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

impl fmt::Display for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, arguments: &[(String, Argument)]| {
            arguments.iter().try_for_each(|(name, value)| write!(f, ", {name}={value}"))
        };
        match self {
            Self::Exchange { name, kind, durable, arguments } => {
                let durable = if *durable { "durable" } else { "not durable" };
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
