//! Errors of a consumer, and which of them a message may have caused.

use amqp_publisher::{BrokerError, Endpoint, error::Cause};
use lapin::{ErrorKind, protocol::AMQPError};

/// AMQP reply code of a connection that an operator closed, or whose node stops.
const CONNECTION_FORCED: u16 = 320;

/// Error that ends a consumer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The broker cannot be reached, refuses, or is gone.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The broker ended the consumer: its queue was deleted, or the queue's node went away.
    #[error("RabbitMQ at {at} ended the consumer of queue '{queue}'; it was deleted, or its node went away")]
    Ended {
        /// Which broker.
        at: Endpoint,
        /// The queue.
        queue: String,
    },
    /// A message that was to be put aside was not taken by the queue for such messages.
    #[error(
        "RabbitMQ at {at} did not take a message for queue '{queue}'; check that the queue is there and not full"
    )]
    NotBuried {
        /// Which broker.
        at: Endpoint,
        /// The queue.
        queue: String,
    },
}

impl ConsumerError {
    /// The verdict on an error of lapin's once the connection was open.
    pub(super) fn after_open(at: &Endpoint, source: lapin::Error) -> Self {
        let at = at.clone();
        let error = match protocol_error(&source) {
            Some(error) if source.is_amqp_soft_error() => {
                BrokerError::ChannelClosed { at, code: error.get_id(), text: error.get_message().to_string() }
            }
            Some(error) => BrokerError::ConnectionClosed {
                at,
                code: error.get_id(),
                text: error.get_message().to_string(),
            },
            None => BrokerError::Lost { at, source: Cause::new(source) },
        };
        error.into()
    }

    /// End of a consumer's work while it was at it; `None` when the broker is away or refuses.
    pub fn setback(&self) -> Option<Setback> {
        match self {
            Self::Broker(BrokerError::ConnectionClosed { code: CONNECTION_FORCED, .. }) => {
                Some(Setback::Forced)
            }
            Self::Broker(BrokerError::Lost { .. } | BrokerError::ConnectionClosed { .. }) => {
                Some(Setback::Connection)
            }
            Self::Broker(BrokerError::ChannelClosed { .. }) => Some(Setback::Channel),
            Self::Broker(_) => None,
            Self::Ended { .. } => Some(Setback::Consumer),
            Self::NotBuried { .. } => Some(Setback::DeadLetter),
        }
    }
}

/// Part of a consumer that ended while it was at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setback {
    /// An operator or the broker itself ended the connection (320), as a node does that stops. No message is to blame.
    Forced,
    /// The connection is gone.
    Connection,
    /// The broker closed the channel.
    Channel,
    /// The broker ended the consumer.
    Consumer,
    /// A message could not be put aside.
    DeadLetter,
}

/// The broker's own error, when that is what `error` is.
fn protocol_error(error: &lapin::Error) -> Option<&AMQPError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error),
        _ => None,
    }
}
