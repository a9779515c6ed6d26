//! Errors of the broker, told apart by what is to be done about them. Texts hold no user and no password.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use diagnostics::remedy::Mender;
use secret::SecretError;

use crate::{
    connection::{
        endpoint::{Endpoint, InvalidUrl},
        tls::CertificateError,
    },
    refusal::{self, Reason, Refusal, reply},
};

/// Error below, such as that of a socket.
#[derive(Clone, Debug)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// Keeps the error.
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }

    /// Tells a certificate or version that does not do from a connection that broke off.
    fn is_of_tls(&self) -> bool {
        let io = self.0.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        io.is_some_and(|inner| inner.is::<rustls::Error>())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::new(error)
    }
}

/// End of a connection.
#[derive(Debug)]
pub enum Loss {
    /// The broker closed it and said why.
    Closed(Refusal),
    /// It is gone, or speaks no AMQP.
    Broken(io::Error),
}

impl Loss {
    /// Breach of AMQP 0-9-1 by what comes.
    pub(crate) fn violation(text: impl Into<String>) -> Self {
        Self::Broken(io::Error::new(io::ErrorKind::InvalidData, text.into()))
    }

    /// The error of the connection to that broker.
    pub(crate) fn at(self, at: &Endpoint) -> BrokerError {
        let at = at.clone();
        match self {
            Self::Closed(Refusal { code, text }) => BrokerError::ConnectionClosed { at, code, text },
            Self::Broken(error) => BrokerError::Lost { at, source: error.into() },
        }
    }
}

/// Reason why there is no connection, or no longer one. Displayed as what happened, a semicolon, and the next step.
#[derive(Clone, Debug)]
pub enum BrokerError {
    /// A URL is none.
    InvalidUrl(InvalidUrl),
    /// The file of the URLs or of the password cannot be used now.
    Secret(String),
    /// There is no URL.
    NoUrl,
    /// A certificate or key cannot be used.
    Certificates(CertificateError),
    /// No TCP connection.
    Unreachable {
        /// The broker.
        at: Endpoint,
        /// Error of the operating system.
        source: Cause,
    },
    /// No connection within [`ConnectionOptions::connect_timeout`](super::ConnectionOptions::connect_timeout).
    TimedOut {
        /// The broker.
        at: Endpoint,
        /// The limit.
        after: Duration,
    },
    /// TCP, but no TLS.
    Tls {
        /// The broker.
        at: Endpoint,
        /// Error of rustls.
        source: Cause,
    },
    /// The broker does not accept user and password.
    LoginRefused {
        /// The broker.
        at: Endpoint,
        /// The broker's own words.
        text: String,
    },
    /// The vhost is missing, or not for this user.
    VhostRefused {
        /// The broker.
        at: Endpoint,
        /// The broker's own words.
        text: String,
    },
    /// A limit, or something else than login and vhost, keeps the connection from being opened.
    ConnectionRefused {
        /// The broker.
        at: Endpoint,
        /// AMQP reply code, for instance 530 when a limit of connections is reached.
        code: u16,
        /// The broker's own words.
        text: String,
    },
    /// A connection may have fewer channels than are needed.
    TooFewChannels {
        /// The broker.
        at: Endpoint,
        /// As many as both sides agreed on.
        channel_max: u16,
        /// As many as there have to be.
        needed: u16,
    },
    /// The connection broke off before it was open.
    Handshake {
        /// The broker.
        at: Endpoint,
        /// Error that broke it off.
        source: Cause,
    },
    /// Several URLs, and none of them did.
    NoneUsable {
        /// One error a URL, in the order in which they were tried.
        tried: Vec<BrokerError>,
    },
    /// The broker does not have, or does not allow, what is to be declared.
    Declare {
        /// The broker.
        at: Endpoint,
        /// The object, and the reason.
        error: DeclareError,
    },
    /// The broker closed a channel; everything in flight on it has to be sent again.
    ChannelClosed {
        /// The broker.
        at: Endpoint,
        /// AMQP reply code, for instance 404 when an exchange was deleted under way.
        code: u16,
        /// The broker's own words.
        text: String,
    },
    /// The broker closed the connection and said why.
    ConnectionClosed {
        /// The broker.
        at: Endpoint,
        /// AMQP reply code, for instance 320 when an operator closed it or the node stops.
        code: u16,
        /// The broker's own words.
        text: String,
    },
    /// The connection is gone without a word: cut off, or no heartbeat.
    Lost {
        /// The broker.
        at: Endpoint,
        /// Sign of the loss.
        source: Cause,
    },
    /// Somebody took the fence away, while we held it.
    FenceGone {
        /// The broker.
        at: Endpoint,
        /// The queue.
        queue: String,
    },
    /// A message that AMQP cannot carry.
    Unsendable {
        /// Value of the header that tells it from others.
        message: String,
        /// Part that does not fit.
        reason: String,
    },
    /// The broker returned a message that is not in flight; it is no longer certain what was delivered.
    UnexpectedReturn {
        /// The broker.
        at: Endpoint,
        /// Knowledge of the message.
        what: String,
    },
}

impl BrokerError {
    /// Account of what happened, without the next step.
    pub fn what(&self) -> String {
        match self {
            Self::InvalidUrl(error) => format!("the URL of RabbitMQ {}", error.what),
            Self::Secret(error) => format!("the file of RabbitMQ's URL or password: {error}"),
            Self::NoUrl => "there is no URL of RabbitMQ".to_owned(),
            Self::Certificates(error) => format!("TLS for RabbitMQ: {error}"),
            Self::Unreachable { at, source } => format!("RabbitMQ at {at} cannot be reached: {source}"),
            Self::TimedOut { at, after } => {
                format!("RabbitMQ at {at} did not answer within {} ms", after.as_millis())
            }
            Self::Tls { at, source } => format!("no TLS session with RabbitMQ at {at}: {source}"),
            Self::LoginRefused { at, text } => format!("RabbitMQ at {at} refuses the login: {text}"),
            Self::VhostRefused { at, text } => format!("RabbitMQ at {at} refuses the vhost: {text}"),
            Self::ConnectionRefused { at, code, text } => {
                format!("RabbitMQ at {at} refuses the connection: {code} {text}")
            }
            Self::TooFewChannels { at, channel_max, needed } => {
                format!(
                    "RabbitMQ at {at} allows {channel_max} channels a connection, and {needed} are needed"
                )
            }
            Self::Handshake { at, source } => format!("RabbitMQ at {at} broke off the handshake: {source}"),
            Self::NoneUsable { tried } => none_usable(tried.iter().map(Self::to_string)),
            Self::Declare { at, error } => format!("RabbitMQ at {at}: {}", error.what()),
            Self::ChannelClosed { at, code, text } => {
                format!("RabbitMQ at {at} closed the channel: {code} {text}")
            }
            Self::ConnectionClosed { at, code, text } => {
                format!("RabbitMQ at {at} closed the connection: {code} {text}")
            }
            Self::Lost { at, source } => format!("the connection to RabbitMQ at {at} is lost: {source}"),
            Self::FenceGone { at, queue } => format!(
                "queue '{queue}' at RabbitMQ at {at} was deleted, which keeps other instances from publishing"
            ),
            Self::Unsendable { message, reason } => {
                format!("message {message} cannot be sent: {reason}")
            }
            Self::UnexpectedReturn { at, what } => {
                format!("RabbitMQ at {at} returned a message that is not in flight ({what})")
            }
        }
    }

    /// Next step, in RabbitMQ's words; `None` where each error among them has its own, or nothing is to be done.
    pub fn cure(&self) -> Option<String> {
        if let Some((code, text)) = self.refusal() {
            return Some(refusal::cure(code, text));
        }
        let cure = match self {
            Self::InvalidUrl(error) => error.cure,
            Self::Secret(_) => "it is read for every connection",
            Self::NoUrl => "give one, such as amqp://user:password@host:5672/%2f",
            Self::Certificates(error) => return error.cure().map(str::to_owned),
            Self::Unreachable { .. } => "check that it runs, and its host, port and firewall",
            Self::TimedOut { .. } => "check host and port, and whether the node is overloaded",
            Self::Tls { .. } => {
                "check that the port speaks TLS, which CA certificates are trusted, that the certificate names this host, and whether \
                 the broker wants a client certificate"
            }
            Self::TooFewChannels { needed, .. } => {
                return Some(format!(
                    "raise channel_max in rabbitmq.conf to {needed} or more, and remove it from the URL"
                ));
            }
            Self::Handshake { .. } => {
                "check that the port speaks AMQP 0-9-1, with TLS if and only if the URL says amqps, and whether the broker wants a \
                 client certificate"
            }
            Self::Declare { error, .. } => return Some(error.cure()),
            Self::FenceGone { .. } => "exempt it from whatever removes queues",
            Self::Unsendable { .. } => "shorten its headers",
            Self::UnexpectedReturn { .. } => "what is unconfirmed has to be sent again",
            _ => return None,
        };
        Some(cure.to_owned())
    }

    /// Code and words of the broker, where it has refused the login, the vhost, a connection or a channel.
    fn refusal(&self) -> Option<(u16, &str)> {
        match self {
            Self::LoginRefused { text, .. } => Some((reply::ACCESS_REFUSED, text)),
            Self::VhostRefused { text, .. } => Some((reply::NOT_ALLOWED, text)),
            Self::ConnectionRefused { code, text, .. }
            | Self::ChannelClosed { code, text, .. }
            | Self::ConnectionClosed { code, text, .. } => Some((*code, text)),
            _ => None,
        }
    }

    /// Reason of the broker's refusal, if it has refused anything.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Declare { error, .. } => Some(error.reason),
            error => error.refusal().map(|(code, text)| refusal::reason(code, text)),
        }
    }

    /// The one who mends it.
    pub fn mender(&self) -> Mender {
        match self {
            Self::InvalidUrl(_)
            | Self::Secret(_)
            | Self::NoUrl
            | Self::Certificates(_)
            | Self::LoginRefused { .. }
            | Self::TooFewChannels { .. } => Mender::Person,
            Self::VhostRefused { .. } | Self::ConnectionRefused { .. } | Self::Declare { .. } => {
                self.reason().map_or(Mender::Time, Reason::mender)
            }
            Self::NoneUsable { tried } if tried.iter().all(|error| error.mender() == Mender::Person) => {
                Mender::Person
            }
            Self::Tls { source, .. } if source.is_of_tls() => Mender::Person,
            _ => Mender::Time,
        }
    }
}

/// Account of what happened when none of several URLs could be used, from the text of each error.
pub fn none_usable(tried: impl IntoIterator<Item = String>) -> String {
    let tried: Vec<String> = tried.into_iter().collect();
    format!("no RabbitMQ node could be used: {}", tried.join(" | "))
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what())?;
        match self.cure() {
            Some(cure) => write!(f, "; {cure}"),
            None => Ok(()),
        }
    }
}

impl Error for BrokerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Certificates(error) => error.source(),
            Self::Unreachable { source, .. }
            | Self::Tls { source, .. }
            | Self::Handshake { source, .. }
            | Self::Lost { source, .. } => source.0.source(),
            _ => None,
        }
    }
}

impl From<InvalidUrl> for BrokerError {
    fn from(error: InvalidUrl) -> Self {
        Self::InvalidUrl(error)
    }
}

impl From<CertificateError> for BrokerError {
    fn from(error: CertificateError) -> Self {
        Self::Certificates(error)
    }
}

impl From<SecretError> for BrokerError {
    fn from(error: SecretError) -> Self {
        Self::Secret(error.to_string())
    }
}

/// An exchange, queue or binding that cannot be declared or is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclareError {
    /// The object that was to be declared, for instance `queue 'customer-service.orders'`.
    pub object: String,
    /// Reason of the failure.
    pub reason: Reason,
    /// AMQP reply code.
    pub code: u16,
    /// The broker's own words.
    pub text: String,
}

impl DeclareError {
    /// The verdict on the channel's end while `object` was declared.
    pub fn new(object: impl Into<String>, Refusal { code, text }: Refusal) -> Self {
        Self { object: object.into(), reason: refusal::reason(code, &text), code, text }
    }

    /// Account of what is the matter.
    pub fn what(&self) -> String {
        let Self { object, code, text, .. } = self;
        format!("{object} {}: {text}", refusal::means(*code, text))
    }

    /// Next step, in RabbitMQ's words.
    pub fn cure(&self) -> String {
        let Self { object, .. } = self;
        match self.reason {
            Reason::Different if object.starts_with("queue") => {
                format!("drain and delete {object}, or declare it as it is, or give it another name")
            }
            Reason::Different => format!("declare {object} as it is, or delete or rename it"),
            Reason::UnknownExchangeType if object.contains("x-consistent-hash") => {
                "run rabbitmq-plugins enable rabbitmq_consistent_hash_exchange on every node".to_owned()
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

impl Error for DeclareError {}
