//! Open channel to a broker, and the consumer on it.

use std::{io, time::Duration};

use amqp_publisher::{BrokerError, ConnectionOptions, Endpoint, short_string::short};
use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, Connection,
    message::Delivery as LapinDelivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};

use super::{
    ConsumerError, Delivery,
    connect::{self, answered},
    guard::InHand,
};

/// Interval of checking the connection while no message arrives.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Connection with one channel, which consumes nothing yet.
pub(super) struct Line {
    pub(super) connection: Connection,
    pub(super) at: Endpoint,
    pub(super) channel: Channel,
    in_hand: InHand,
    prefetch: u16,
}

/// Consumer of one queue.
pub(super) struct Session {
    pub(super) line: Line,
    pub(super) queue: ShortString,
    deliveries: lapin::Consumer,
    /// First of `deliveries`, not returned yet.
    ahead: Option<LapinDelivery>,
}

impl Line {
    /// Connects to a broker that has accepted this user before.
    pub(super) async fn open(
        options: &ConnectionOptions,
        at: Endpoint,
        name: &str,
        prefetch: u16,
    ) -> Result<Self, ConsumerError> {
        let in_hand = InHand::default();
        let connection = connect::connect(options, &at, name, prefetch, &in_hand).await?;
        let opened = answered(connection.create_channel()).await;
        let channel = opened.map_err(|source| ConsumerError::after_open(&at, source))?;
        Ok(Self { connection, at, channel, in_hand, prefetch })
    }

    /// Starts consuming a queue.
    pub(super) async fn consume(self, queue: ShortString) -> Result<Session, ConsumerError> {
        self.answered(self.channel.basic_qos(self.prefetch, BasicQosOptions::default())).await?;
        let consuming = self.channel.basic_consume(
            queue.clone(),
            ShortString::default(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let deliveries = self.answered(consuming).await?;
        Ok(Session { line: self, queue, deliveries, ahead: None })
    }

    /// Returns a name as AMQP has it.
    pub(super) fn short(&self, name: &str) -> Result<ShortString, ConsumerError> {
        short(name).map_err(|error| self.failed(error.into()))
    }

    pub(super) async fn answered<T>(
        &self,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, ConsumerError> {
        answered(answer).await.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: lapin::Error) -> ConsumerError {
        ConsumerError::after_open(&self.at, source)
    }
}

impl Session {
    /// Returns the next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Delivery, ConsumerError> {
        if let Some(inner) = self.ahead.take() {
            return Ok(Delivery { inner });
        }
        let next = loop {
            // A lost connection should end the stream. The timeout detects one that does not.
            match tokio::time::timeout(LOOK_INTERVAL, self.deliveries.next()).await {
                Ok(next) => break next,
                Err(_) if self.line.connection.status().connected() => {}
                Err(_) => {
                    let closed = io::Error::from(io::ErrorKind::ConnectionAborted);
                    return Err(BrokerError::Lost { at: self.line.at.clone(), source: closed.into() }.into());
                }
            }
        };
        match next {
            Some(Ok(inner)) => Ok(Delivery { inner }),
            Some(Err(source)) => Err(self.line.failed(source)),
            None => Err(ConsumerError::Ended { at: self.line.at.clone(), queue: self.queue.to_string() }),
        }
    }

    /// Tells whether a message has arrived, so that [`next`](Self::next) returns at once.
    pub(super) fn has_next(&mut self) -> bool {
        if self.ahead.is_none()
            && let Some(Some(Ok(inner))) = self.deliveries.next().now_or_never()
        {
            self.ahead = Some(inner);
        }
        self.ahead.is_some()
    }

    /// Acknowledges a message.
    pub(super) async fn ack(&self, delivery: &Delivery) -> Result<(), ConsumerError> {
        self.line.in_hand.settled();
        self.line.answered(delivery.inner.ack(BasicAckOptions::default())).await.map(drop)
    }

    /// Closes the connection in order. Unacknowledged messages return to their place in the queue.
    pub(super) async fn close(self) {
        connect::close(&self.line.connection).await;
    }
}
