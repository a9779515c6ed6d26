//! Errors of a consumer, and whether a message may have caused them.

use amqp_publisher::{BrokerError, Endpoint, Refusal, error::Cause};
use lapin::ErrorKind;

/// AMQP reply code of a connection that an operator or a stopping node closed.
const CONNECTION_FORCED: u16 = 320;

/// Error that ends a consumer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The broker cannot be reached or refuses, or the connection is lost.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The broker ended the consumer: its queue was deleted, or the queue's node went away.
    #[error(
        "RabbitMQ at {at} ended the consumer of queue '{queue}'; the queue was deleted, or its node went away"
    )]
    Ended {
        /// Which broker.
        at: Endpoint,
        /// The queue.
        queue: String,
    },
    /// The dead-letter queue did not accept a message.
    #[error(
        "RabbitMQ at {at} did not accept a message for queue '{queue}'; check that the queue exists and is not full"
    )]
    NotBuried {
        /// Which broker.
        at: Endpoint,
        /// The queue.
        queue: String,
    },
}

impl ConsumerError {
    /// Returns the error of an open connection from lapin's.
    pub(super) fn after_open(at: &Endpoint, source: lapin::Error) -> Self {
        let at = at.clone();
        let error = match protocol_error(&source) {
            Some(refusal) if source.is_amqp_soft_error() => BrokerError::ChannelClosed { at, refusal },
            Some(refusal) => BrokerError::ConnectionClosed { at, refusal },
            None => BrokerError::Lost { at, source: Cause::new(source) },
        };
        error.into()
    }

    /// Returns the interruption of a working consumer; `None` when the broker is away or refuses.
    pub fn setback(&self) -> Option<Setback> {
        match self {
            Self::Broker(BrokerError::ConnectionClosed {
                refusal: Refusal { code: CONNECTION_FORCED, .. },
                ..
            }) => Some(Setback::Forced),
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

/// Interruption of a working consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setback {
    /// An operator or the broker ended the connection (320), as a stopping node does. No message is to blame.
    Forced,
    /// The connection was lost.
    Connection,
    /// The broker closed the channel.
    Channel,
    /// The broker ended the consumer.
    Consumer,
    /// A message could not be moved to the dead-letter queue.
    DeadLetter,
}

/// Returns the broker's refusal in a lapin error.
fn protocol_error(error: &lapin::Error) -> Option<Refusal> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            Some(Refusal { code: error.get_id(), text: error.get_message().to_string() })
        }
        _ => None,
    }
}
