//! Publishing with confirms, mandatory and persistence. (sketch)
use super::topology::Subscription;
use crate::outbox::Message;
use std::{sync::Arc, time::Duration};

/// How to reach the broker. Debug hides passwords.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// Tried in turn, starting from a different one after each failure. `amqp://` or `amqps://`, password included.
    pub urls: Vec<String>,
    /// Declare topology; otherwise only verify it (passive declares).
    pub declare: bool,
    pub heartbeat: Duration,
    pub connect_timeout: Duration,
    /// PEM file of CA certificates for amqps; else the platform's.
    pub ca_file: Option<std::path::PathBuf>,
    /// PEM client certificate and key.
    pub client_cert: Option<(std::path::PathBuf, std::path::PathBuf)>,
    pub subscriptions: Vec<Subscription>,
}

/// The publisher's name for one publish, chosen by the ledger; ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishTag(pub u64);

/// What became of one publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Confirmed,
    Returned { reply_code: u16, reply_text: String },
    Nacked,
}

/// What the publisher has to say.
#[derive(Debug)]
pub enum PublisherEvent {
    Outcomes(Vec<(PublishTag, Outcome)>),
    Blocked { reason: String },
    Unblocked,
}

#[derive(Debug, thiserror::Error)]
#[error("sketch")]
pub struct BrokerError;

/// One connection, one confirm channel; a second channel for declares.
pub struct Publisher;

impl Publisher {
    /// Connects, selects confirms, declares (or verifies) the subscriptions' topology. `attempt` rotates the urls.
    pub async fn connect(
        options: &BrokerOptions,
        connection_name: &str,
        attempt: usize,
    ) -> Result<Self, BrokerError> {
        todo!()
    }
    /// Takes a message over for publishing; nothing is sent until `next` is polled. Frames leave in the order of these calls.
    pub fn publish(&mut self, tag: PublishTag, message: Arc<Message>) {
        todo!()
    }
    /// Drives sending, declares of exchanges on first use, and confirms. Cancel-safe. Pends for ever when there is nothing to do
    /// (but still gives Err when the connection is lost).
    pub async fn next(&mut self) -> Result<PublisherEvent, BrokerError> {
        todo!()
    }
    /// Closes the connection in good order.
    pub async fn close(self) {
        todo!()
    }
}
