//! What can go wrong with a broker, told apart by what is to be done about it. Texts hold no user and no password.

use std::{fmt, io, sync::Arc, time::Duration};

use lapin::{ErrorKind, protocol::AMQPError};

use crate::{remedy::Mender, secret::SecretError};

use super::{
    endpoint::{Endpoint, InvalidUrl},
    refusal::{self, Reason},
    tls::CertificateError,
};
use crate::position::Position;

/// AMQP reply codes, as in the specification's table of constants.
pub(super) mod reply {
    pub(in crate::rabbitmq) const CONNECTION_FORCED: u16 = 320;
    pub(in crate::rabbitmq) const ACCESS_REFUSED: u16 = 403;
    pub(in crate::rabbitmq) const NOT_FOUND: u16 = 404;
    pub(in crate::rabbitmq) const RESOURCE_LOCKED: u16 = 405;
    pub(in crate::rabbitmq) const PRECONDITION_FAILED: u16 = 406;
    pub(in crate::rabbitmq) const FRAME_ERROR: u16 = 501;
    pub(in crate::rabbitmq) const COMMAND_INVALID: u16 = 503;
    pub(in crate::rabbitmq) const RESOURCE_ERROR: u16 = 506;
    pub(in crate::rabbitmq) const NOT_ALLOWED: u16 = 530;
    pub(in crate::rabbitmq) const INTERNAL_ERROR: u16 = 541;
}

/// What went wrong below.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Cause(Arc<dyn std::error::Error + Send + Sync>);

impl Cause {
    /// Tells a certificate or version that does not do from a connection that broke off.
    fn is_of_tls(&self) -> bool {
        let io = self.0.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        io.is_some_and(|inner| inner.is::<rustls::Error>())
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl From<lapin::Error> for Cause {
    fn from(error: lapin::Error) -> Self {
        Self(Arc::new(error))
    }
}

/// Why the broker closed a channel or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// AMQP reply code.
    pub(super) code: u16,
    /// The broker's own words.
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(code: u16, text: impl fmt::Display) -> Self {
        Self { code, text: text.to_string() }
    }
}

/// Why a connection is no more.
#[derive(Debug)]
pub(super) enum Loss {
    /// The broker closed it and said why.
    Closed(Refusal),
    /// It is gone, or speaks no AMQP.
    Broken(io::Error),
}

impl Loss {
    /// What comes breaks the rules of AMQP 0-9-1.
    pub(super) fn violation(text: impl Into<String>) -> Self {
        Self::Broken(io::Error::new(io::ErrorKind::InvalidData, text.into()))
    }

    pub(super) fn at(self, at: &Endpoint) -> BrokerError {
        let at = at.clone();
        match self {
            Self::Closed(Refusal { code, text }) => BrokerError::ConnectionClosed { at, code, text },
            Self::Broken(error) => BrokerError::Lost { at, source: error.into() },
        }
    }
}

impl From<SecretError> for BrokerError {
    fn from(error: SecretError) -> Self {
        BrokerError::Secret(error.to_string())
    }
}

/// Why there is no publisher, or no longer one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// A URL in the configuration is none.
    #[error("the URL of RabbitMQ {0}")]
    InvalidUrl(#[from] InvalidUrl),
    /// The file of the URLs or of the password cannot be used now.
    #[error("the file of RabbitMQ's URL or password: {0}; it is read for every connection")]
    Secret(String),
    /// No URL is configured.
    #[error("rabbitmq.url is missing; set it to amqp://user:password@host:5672/%2f")]
    NoUrl,
    /// A certificate or key cannot be used.
    #[error("TLS for RabbitMQ: {0}")]
    Certificates(#[from] CertificateError),
    /// No TCP connection.
    #[error(
        "RabbitMQ at {at} cannot be reached: {source}; check that it runs, and its host, port and firewall"
    )]
    Unreachable {
        /// Which broker.
        at: Endpoint,
        /// What the operating system said.
        source: Cause,
    },
    /// No connection within `rabbitmq.connect_timeout_ms`.
    #[error("RabbitMQ at {at} did not answer within {} ms; check host and port, and whether the node is overloaded", after.as_millis())]
    TimedOut {
        /// Which broker.
        at: Endpoint,
        /// The limit.
        after: Duration,
    },
    /// TCP, but no TLS.
    #[error(
        "no TLS session with RabbitMQ at {at}: {source}; check that the port speaks TLS, rabbitmq.tls_ca_file, that the \
         certificate names this host, and whether the broker wants a client certificate"
    )]
    Tls {
        /// Which broker.
        at: Endpoint,
        /// What rustls said.
        source: Cause,
    },
    /// The broker does not accept user and password.
    #[error("RabbitMQ at {at} refuses the login: {text}; {}", refusal::cure(reply::ACCESS_REFUSED, text))]
    LoginRefused {
        /// Which broker.
        at: Endpoint,
        /// The broker's own words.
        text: String,
    },
    /// The vhost is missing, or not for this user.
    #[error("RabbitMQ at {at} refuses the vhost: {text}; {}", refusal::cure(reply::NOT_ALLOWED, text))]
    VhostRefused {
        /// Which broker.
        at: Endpoint,
        /// The broker's own words.
        text: String,
    },
    /// A limit, or something else than login and vhost, keeps the connection from being opened.
    #[error("RabbitMQ at {at} refuses the connection: {code} {text}; {}", refusal::cure(*code, text))]
    ConnectionRefused {
        /// Which broker.
        at: Endpoint,
        /// AMQP reply code, for instance 530 when a limit of connections is reached.
        code: u16,
        /// The broker's own words.
        text: String,
    },
    /// A connection may have fewer channels than are needed.
    #[error(
        "RabbitMQ at {at} allows {channel_max} channels a connection, and {needed} are needed; raise channel_max in \
         rabbitmq.conf to {needed} or more, and remove it from the URL"
    )]
    TooFewChannels {
        /// Which broker.
        at: Endpoint,
        /// As many as both sides agreed on.
        channel_max: u16,
        /// As many as there have to be.
        needed: u16,
    },
    /// The connection broke off before it was open.
    #[error(
        "RabbitMQ at {at} broke off the handshake: {source}; check that the port speaks AMQP 0-9-1, with TLS if and only if \
         the URL says amqps, and whether the broker wants a client certificate"
    )]
    Handshake {
        /// Which broker.
        at: Endpoint,
        /// What broke it off.
        source: Cause,
    },
    /// Several URLs, and none of them did.
    #[error("no RabbitMQ node could be used: {}", Joined(tried))]
    NoneUsable {
        /// One error a URL, in the order in which they were tried.
        tried: Vec<BrokerError>,
    },
    /// The broker does not have, or does not allow, what is to be declared.
    #[error("RabbitMQ at {at}: {error}")]
    Declare {
        /// Which broker.
        at: Endpoint,
        /// What, and why.
        error: DeclareError,
    },
    /// The broker closed the publishing channel; everything in flight has to be sent again.
    #[error("RabbitMQ at {at} closed the channel: {code} {text}; {}", refusal::cure(*code, text))]
    ChannelClosed {
        /// Which broker.
        at: Endpoint,
        /// AMQP reply code, for instance 404 when an exchange was deleted under way.
        code: u16,
        /// The broker's own words.
        text: String,
    },
    /// The broker closed the connection and said why.
    #[error("RabbitMQ at {at} closed the connection: {code} {text}; {}", refusal::cure(*code, text))]
    ConnectionClosed {
        /// Which broker.
        at: Endpoint,
        /// AMQP reply code, for instance 320 when an operator closed it or the node stops.
        code: u16,
        /// The broker's own words.
        text: String,
    },
    /// The connection is gone without a word: cut off, or no heartbeat.
    #[error("the connection to RabbitMQ at {at} is lost: {source}")]
    Lost {
        /// Which broker.
        at: Endpoint,
        /// What was noticed.
        source: Cause,
    },
    /// The broker ended a consumer: its queue was deleted, or the queue's node went away.
    #[error("RabbitMQ at {at} ended the consumer of queue '{queue}'; it was deleted, or its node went away")]
    ConsumerEnded {
        /// Which broker.
        at: Endpoint,
        /// The queue.
        queue: String,
    },
    /// Somebody took the fence away, while we held it.
    #[error(
        "queue '{queue}' at RabbitMQ at {at} was deleted, which keeps other instances from publishing; `run` makes it anew; exempt \
         ^outboxd\\.publisher\\. from whatever removes queues"
    )]
    FenceGone {
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
    /// A message that AMQP cannot carry.
    #[error(
        "the message at {position} cannot be sent: {reason}; shorten the headers of such rows; with delivery.on_invalid = \"park\" they are put aside"
    )]
    Unsendable {
        /// Which row.
        position: Position,
        /// What does not fit.
        reason: String,
    },
    /// The broker returned a message that is not in flight; it is no longer certain what was delivered.
    #[error(
        "RabbitMQ at {at} returned a message that is not in flight ({what}); what is unconfirmed has to be sent again"
    )]
    UnexpectedReturn {
        /// Which broker.
        at: Endpoint,
        /// What is known of the message.
        what: String,
    },
}

impl BrokerError {
    /// Who mends it. Its text holds the cure.
    pub fn mender(&self) -> Mender {
        match self {
            Self::InvalidUrl(_)
            | Self::Secret(_)
            | Self::NoUrl
            | Self::Certificates(_)
            | Self::LoginRefused { .. }
            | Self::TooFewChannels { .. } => Mender::Person,
            Self::VhostRefused { text, .. } => refusal::reason(reply::NOT_ALLOWED, text).mender(),
            Self::ConnectionRefused { code, text, .. } => refusal::reason(*code, text).mender(),
            Self::Declare { error, .. } => error.reason.mender(),
            Self::NoneUsable { tried } if tried.iter().all(|error| error.mender() == Mender::Person) => {
                Mender::Person
            }
            Self::Tls { source, .. } if source.is_of_tls() => Mender::Person,
            _ => Mender::Time,
        }
    }

    /// End of a consumer's work while it was at it; `None` when the broker is away or refuses.
    pub fn setback(&self) -> Option<Setback> {
        match self {
            Self::ConnectionClosed { code: reply::CONNECTION_FORCED, .. } => Some(Setback::Forced),
            Self::Lost { .. } | Self::ConnectionClosed { .. } => Some(Setback::Connection),
            Self::ChannelClosed { .. } => Some(Setback::Channel),
            Self::ConsumerEnded { .. } => Some(Setback::Consumer),
            Self::NotBuried { .. } => Some(Setback::DeadLetter),
            _ => None,
        }
    }

    /// The verdict on an error of lapin's once the connection was open.
    pub(super) fn after_open(at: &Endpoint, source: lapin::Error) -> Self {
        let at = at.clone();
        match protocol_error(&source) {
            Some(error) if source.is_amqp_soft_error() => {
                Self::ChannelClosed { at, code: error.get_id(), text: error.get_message().to_string() }
            }
            Some(error) => {
                Self::ConnectionClosed { at, code: error.get_id(), text: error.get_message().to_string() }
            }
            None => Self::Lost { at, source: source.into() },
        }
    }
}

/// What of a consumer ended while it was at work.
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
pub(super) fn protocol_error(error: &lapin::Error) -> Option<&AMQPError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error),
        _ => None,
    }
}

/// An exchange, queue or binding that cannot be declared or is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclareError {
    /// What was to be declared, for instance `queue 'customer-service.orders'`.
    pub object: String,
    /// Why it failed.
    pub reason: Reason,
    /// AMQP reply code.
    pub code: u16,
    /// The broker's own words.
    pub text: String,
}

impl DeclareError {
    /// The verdict on the channel's end while `object` was declared.
    pub(super) fn new(object: String, Refusal { code, text }: Refusal) -> Self {
        Self { object, reason: refusal::reason(code, &text), code, text }
    }

    /// What is the matter.
    pub fn what(&self) -> String {
        let Self { object, code, text, .. } = self;
        format!("{object} {}: {text}", refusal::means(*code, text))
    }

    /// What to do about it.
    pub fn cure(&self) -> String {
        let Self { object, .. } = self;
        match self.reason {
            Reason::Different if object.starts_with("queue") => {
                format!("drain and delete {object}, or change its subscription to what it is, or rename the subscription's queue")
            }
            Reason::Different => {
                format!(
                    "describe {object} in [[exchanges]] as it is, or delete or rename it, or change message.exchange, or set \
                     rabbitmq.declare = false to use it as it is"
                )
            }
            Reason::UnknownExchangeType if object.contains("x-consistent-hash") => {
                "run rabbitmq-plugins enable rabbitmq_consistent_hash_exchange on every node, or set partitions = 1".to_owned()
            }
            _ => refusal::cure(self.code, &self.text),
        }
    }
}

impl fmt::Display for DeclareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what(), self.cure())
    }
}

impl std::error::Error for DeclareError {}

struct Joined<'a>(&'a [BrokerError]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { " | " })?;
        }
        Ok(())
    }
}
