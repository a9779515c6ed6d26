//! One exchange, queue or binding: how it is declared, or looked for, and what is said of it.

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

/// Of an exchange's arguments the only one that the broker compares with what is there.
const ALTERNATE_EXCHANGE: &str = "alternate-exchange";

/// One thing to declare. Displayed in one line.
#[derive(Clone, Debug, PartialEq)]
pub enum Declaration {
    /// An exchange.
    Exchange {
        /// Its name.
        name: String,
        /// Type of the exchange.
        kind: String,
        /// Set when it survives a restart of the broker.
        durable: bool,
        /// Optional arguments.
        arguments: Vec<(String, Argument)>,
    },
    /// A durable queue.
    Queue {
        /// Its name.
        name: String,
        /// Its optional arguments, as [`Topology::plan`](super::Topology::plan) sets them.
        arguments: Vec<(String, Argument)>,
    },
    /// A binding of an exchange or queue to an exchange.
    Binding {
        /// Exchange or queue that is bound.
        destination: Destination,
        /// The exchange that it is bound to.
        source: String,
        /// The binding key.
        key: String,
    },
}

/// End of a binding: the queue or exchange that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A queue.
    Queue(String),
    /// An exchange.
    Exchange(String),
}

impl Declaration {
    /// A durable exchange of type `topic`.
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

    /// Names of the arguments that the broker does not compare with those of an exchange that is there.
    pub fn uncompared(&self) -> Vec<&str> {
        let Self::Exchange { arguments, .. } = self else { return Vec::new() };
        arguments.iter().map(|(name, _)| &**name).filter(|name| *name != ALTERNATE_EXCHANGE).collect()
    }

    /// Its name in an error: kind and name, without its arguments.
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
    ///
    /// # Errors
    ///
    /// The broker refuses, which closes the channel, or the connection is lost.
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

    /// The error when it could not be declared.
    pub(crate) fn failure(&self, error: CallError, at: &Endpoint) -> BrokerError {
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

    /// The error when the broker closed the channel for it.
    fn refused(&self, refusal: Refusal, at: &Endpoint) -> BrokerError {
        BrokerError::Declare { at: at.clone(), error: DeclareError::new(self.object(), refusal) }
    }

    /// The method that asks for it; `None` when there is no way to ask.
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
