//! Errors of a connection to RabbitMQ, distinguished by their cure. No text contains a password.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use diagnostics::{remedy::Mender, shell_word::quoted};
use secret::SecretError;

use crate::{
    connection::{
        endpoint::{Endpoint, InvalidUrl},
        tls::CertificateError,
    },
    refusal::{Reason, Refusal},
};

/// Underlying error, such as that of a socket.
#[derive(Clone, Debug)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// Wraps an error.
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }

    /// Tells whether TLS itself failed, by a certificate or version, and not the connection below.
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
    /// The broker closed the connection, with a reason.
    Closed(Refusal),
    /// The connection broke, or the bytes are not AMQP.
    Broken(io::Error),
}

impl Loss {
    /// Returns the loss for a violation of AMQP 0-9-1.
    pub(crate) fn violation(text: impl Into<String>) -> Self {
        Self::Broken(io::Error::new(io::ErrorKind::InvalidData, text.into()))
    }

    /// The error of the connection to that broker.
    pub(crate) fn at(self, at: &Endpoint) -> BrokerError {
        let at = at.clone();
        match self {
            Self::Closed(refusal) => BrokerError::ConnectionClosed { at, refusal },
            Self::Broken(error) => BrokerError::Lost { at, source: error.into() },
        }
    }
}

/// Error of a connection. Displayed as what happened, a semicolon, and the next step.
#[derive(Clone, Debug)]
pub enum BrokerError {
    /// A URL is invalid.
    InvalidUrl(InvalidUrl),
    /// The file with the URLs or the password cannot be read.
    Secret(String),
    /// No URL is configured.
    NoUrl,
    /// A certificate or key cannot be used.
    Certificates(CertificateError),
    /// The TCP connection failed.
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
    /// The TLS handshake failed.
    Tls {
        /// The broker.
        at: Endpoint,
        /// Error of rustls.
        source: Cause,
    },
    /// The broker refused user and password.
    LoginRefused {
        /// The broker.
        at: Endpoint,
        /// The broker's code and text.
        refusal: Refusal,
    },
    /// The virtual host does not exist, or the user has no access to it.
    VhostRefused {
        /// The broker.
        at: Endpoint,
        /// The broker's code and text.
        refusal: Refusal,
    },
    /// The broker refused the connection for another reason, such as a limit.
    ConnectionRefused {
        /// The broker.
        at: Endpoint,
        /// The broker's code and text, for instance 530 when a limit of connections is reached.
        refusal: Refusal,
    },
    /// The broker or the URL allows too few channels.
    TooFewChannels {
        /// The broker.
        at: Endpoint,
        /// Agreed number of channels.
        channel_max: u16,
        /// Required number of channels.
        needed: u16,
    },
    /// The connection broke during the handshake.
    Handshake {
        /// The broker.
        at: Endpoint,
        /// The underlying error.
        source: Cause,
    },
    /// No URL was usable.
    NoneUsable {
        /// Errors of all URLs, in the order of the attempts.
        tried: Vec<BrokerError>,
    },
    /// An exchange, queue or binding is missing or cannot be declared.
    Declare {
        /// The broker.
        at: Endpoint,
        /// The object, and the reason.
        error: DeclareError,
    },
    /// The broker closed a channel. Everything in flight on it has to be sent again.
    ChannelClosed {
        /// The broker.
        at: Endpoint,
        /// The broker's code and text, for instance 404 when an exchange was deleted under way.
        refusal: Refusal,
    },
    /// The broker closed the connection, with a reason.
    ConnectionClosed {
        /// The broker.
        at: Endpoint,
        /// The broker's code and text, for instance 320 when an operator closed it or the node stops.
        refusal: Refusal,
    },
    /// The connection broke without a reason from the broker: cut off, or no heartbeat.
    Lost {
        /// The broker.
        at: Endpoint,
        /// The underlying error.
        source: Cause,
    },
    /// The fence's queue was deleted while this connection held it.
    FenceGone {
        /// The broker.
        at: Endpoint,
        /// The queue.
        queue: String,
    },
    /// A message does not fit into AMQP's limits.
    Unsendable {
        /// Value of the message's identifying header.
        message: String,
        /// The part that is too long, and its limit.
        reason: String,
    },
    /// The broker returned a message that is not in flight, so delivery of the others is uncertain.
    UnexpectedReturn {
        /// The broker.
        at: Endpoint,
        /// Description of the message.
        what: String,
    },
}

impl BrokerError {
    /// Returns what happened, without the next step.
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
            Self::LoginRefused { at, refusal } => {
                let user = at.user();
                format!("RabbitMQ at {at} refuses the login of user '{user}': {}", refusal.text)
            }
            Self::VhostRefused { at, refusal } => {
                format!("RabbitMQ at {at} refuses the vhost: {}", refusal.text)
            }
            Self::ConnectionRefused { at, refusal } => {
                format!("RabbitMQ at {at} refuses the connection: {refusal}")
            }
            Self::TooFewChannels { at, channel_max, needed } => {
                format!(
                    "RabbitMQ at {at} allows {channel_max} channels a connection, and {needed} are needed"
                )
            }
            Self::Handshake { at, source } => format!("RabbitMQ at {at} broke off the handshake: {source}"),
            Self::NoneUsable { tried } => none_usable(tried.iter().map(Self::to_string)),
            Self::Declare { at, error } => format!("RabbitMQ at {at}: {}", error.what()),
            Self::ChannelClosed { at, refusal } => {
                format!("RabbitMQ at {at} closed the channel: {refusal}")
            }
            Self::ConnectionClosed { at, refusal } => {
                format!("RabbitMQ at {at} closed the connection: {refusal}")
            }
            Self::Lost { at, source } => format!("the connection to RabbitMQ at {at} is lost: {source}"),
            Self::FenceGone { at, queue } => format!(
                "RabbitMQ at {at}: queue '{queue}', which keeps other instances from publishing, was deleted"
            ),
            Self::Unsendable { message, reason } => {
                format!("message {message} cannot be sent: {reason}")
            }
            Self::UnexpectedReturn { at, what } => {
                format!("RabbitMQ at {at} returned a message that is not in flight ({what})")
            }
        }
    }

    /// Returns the next step, in RabbitMQ's terms. `None` for [`BrokerError::NoneUsable`], whose errors have their
    /// own, and when there is nothing to do.
    pub fn cure(&self) -> Option<String> {
        if let Self::LoginRefused { at, .. } = self {
            return Some(cure_of_login(at.user()));
        }
        if let Some(refusal) = self.refusal() {
            return Some(refusal.cure());
        }
        let cure = match self {
            Self::InvalidUrl(error) => error.cure,
            Self::Secret(_) => "correct the file, which is read again for every connection",
            Self::NoUrl => "give one, such as amqp://user:password@host:5672/%2f",
            Self::Certificates(error) => return error.cure().map(str::to_owned),
            Self::Unreachable { .. } => "check that RabbitMQ runs there, and check host, port and firewall",
            Self::TimedOut { .. } => "check host, port, and whether the node is overloaded",
            Self::Tls { .. } => {
                "check that the port speaks TLS, that the certificate comes from a trusted CA and names this host, and whether the \
                 broker requires a client certificate"
            }
            Self::TooFewChannels { needed, .. } => {
                return Some(format!(
                    "raise channel_max in rabbitmq.conf to {needed} or more, and remove it from the URL"
                ));
            }
            Self::Handshake { .. } => {
                "check that the port speaks AMQP 0-9-1, with TLS if the URL begins with amqps and without it otherwise, and whether \
                 the broker requires a client certificate"
            }
            Self::Declare { error, .. } => return Some(error.cure()),
            Self::FenceGone { .. } => "exempt the queue from policies and scripts that delete queues",
            Self::Unsendable { .. } => "shorten its headers",
            Self::UnexpectedReturn { .. } => "unconfirmed messages have to be sent again",
            _ => return None,
        };
        Some(cure.to_owned())
    }

    /// Code and words of the broker, where it has refused the login, the vhost, a connection or a channel.
    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::LoginRefused { refusal, .. }
            | Self::VhostRefused { refusal, .. }
            | Self::ConnectionRefused { refusal, .. }
            | Self::ChannelClosed { refusal, .. }
            | Self::ConnectionClosed { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// Returns the reason, if the broker has refused something.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Declare { error, .. } => Some(error.reason),
            error => error.refusal().map(Refusal::reason),
        }
    }

    /// Returns who applies the cure.
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

/// Next step for a user whose login is refused. RabbitMQ answers a wrong password and an unknown user with the same words.
fn cure_of_login(user: &str) -> String {
    match user {
        "guest" => "correct user and password (RabbitMQ lets the user guest log in from its own host only)"
            .to_owned(),
        user => format!(
            "correct user and password, or set this password at the broker (rabbitmqctl change_password {})",
            quoted(user)
        ),
    }
}

/// Returns what happened when no URL was usable, from the text of each error.
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

/// Error of an exchange, queue or binding that is missing or cannot be declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclareError {
    /// The object, for instance `queue 'customer-service.orders'`.
    pub object: String,
    /// Reason of the refusal.
    pub reason: Reason,
    /// The broker's code and text.
    pub refusal: Refusal,
}

impl DeclareError {
    /// Creates the error of a channel that the broker closed while `object` was declared.
    pub fn new(object: impl Into<String>, refusal: Refusal) -> Self {
        Self { object: object.into(), reason: refusal.reason(), refusal }
    }

    /// Returns what happened.
    pub fn what(&self) -> String {
        let Self { object, refusal, .. } = self;
        format!("{object} {}: {}", refusal.means(), refusal.text)
    }

    /// Returns the next step, in RabbitMQ's terms.
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
            _ => self.refusal.cure(),
        }
    }
}

impl fmt::Display for DeclareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what(), self.cure())
    }
}

impl Error for DeclareError {}
