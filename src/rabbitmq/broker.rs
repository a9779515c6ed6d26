//! From a URL to an open connection: TCP, TLS, login, vhost. Knows nothing of channels and messages.

use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::stream::{BoxStream, StreamExt};
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties, ErrorKind, Event, tcp::RustlsConnector,
    types::LongString, uri::AMQPUri,
};

use super::{
    abandon::Attempt,
    endpoint::Endpoint,
    error::{BrokerError, protocol_error, reply},
    tls,
    topology::Subscription,
};

/// How long a connection may take to close in good order before it is simply dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// One answer may take so long; a quorum queue is declared within seconds also by a busy cluster.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How to reach the broker. Debug hides users and passwords.
#[derive(Clone)]
pub struct BrokerOptions {
    /// Tried in turn, starting from a different one at each attempt. `amqp://` or `amqps://`, password included.
    pub urls: Vec<String>,
    /// Declare exchanges, queues and bindings; otherwise only verify that they are there.
    pub declare: bool,
    /// AMQP heartbeat, rounded up to whole seconds; the broker's is used when it is shorter. A peer that is silent
    /// for twice as long is given up. A URL's `heartbeat` wins.
    pub heartbeat: Duration,
    /// Limit for TCP, TLS, login and vhost together, for each URL.
    pub connect_timeout: Duration,
    /// PEM file of the only CA certificates that `amqps` trusts; else the platform's.
    pub ca_file: Option<PathBuf>,
    /// PEM client certificate (with its chain) and PEM key (PKCS#8, PKCS#1 or SEC1, not encrypted).
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Durable subscriptions, declared before anything is published.
    pub subscriptions: Vec<Subscription>,
}

impl fmt::Debug for BrokerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self
            .urls
            .iter()
            .map(|url| {
                Endpoint::parse(url, self.heartbeat).map_or("(no AMQP URL)".to_owned(), |at| at.to_string())
            })
            .collect();
        f.debug_struct("BrokerOptions")
            .field("urls", &shown)
            .field("declare", &self.declare)
            .field("heartbeat", &self.heartbeat)
            .field("connect_timeout", &self.connect_timeout)
            .field("ca_file", &self.ca_file)
            .field("client_cert", &self.client_cert)
            .field("subscriptions", &self.subscriptions)
            .finish()
    }
}

impl BrokerOptions {
    /// Every URL, parsed. An error names the first that is none.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, BrokerError> {
        if self.urls.is_empty() {
            return Err(BrokerError::NoUrl);
        }
        let endpoints: Result<Vec<_>, _> =
            self.urls.iter().map(|url| Endpoint::parse(url, self.heartbeat)).collect();
        Ok(endpoints?)
    }

    /// What upgrades a connection to TLS; `None` when none of `endpoints` asks for it.
    pub(super) fn tls_connector(
        &self,
        endpoints: &[Endpoint],
    ) -> Result<Option<RustlsConnector>, BrokerError> {
        let connector = endpoints.iter().any(Endpoint::is_tls).then(|| {
            let client_cert = self.client_cert.as_ref();
            tls::connector(
                self.ca_file.as_deref(),
                client_cert.map(|(certificate, key)| (certificate.as_path(), key.as_path())),
            )
        });
        Ok(connector.transpose()?)
    }
}

/// An open connection, and what the broker says of it as a whole.
pub(super) struct Broker {
    pub(super) connection: Arc<Connection>,
    pub(super) events: BoxStream<'static, Event>,
    pub(super) at: Endpoint,
}

impl Broker {
    /// Connects to the first URL that can be used, beginning with number `attempt` (modulo their number).
    /// `connection_name` is shown by RabbitMQ's management and in its log.
    pub(super) async fn connect(
        options: &BrokerOptions,
        connection_name: &str,
        attempt: usize,
    ) -> Result<Self, BrokerError> {
        let mut endpoints = options.endpoints()?;
        let first = attempt % endpoints.len();
        endpoints.rotate_left(first);
        let tls = options.tls_connector(&endpoints)?.map(Arc::new);

        let mut tried = Vec::new();
        for at in endpoints {
            match open(&at, connection_name, tls.clone(), options.connect_timeout).await {
                Ok(broker) => return Ok(broker),
                Err(error) => tried.push(error),
            }
        }
        Err(match tried.len() {
            1 => tried.remove(0),
            _ => BrokerError::NoneUsable { tried },
        })
    }

    /// See [`close`].
    pub(super) async fn close(self) {
        close(&self.connection).await;
    }
}

/// Closes the connection in good order, or not, if that takes more than [`CLOSE_TIMEOUT`]: lapin writes nothing,
/// not even a close, while the broker blocks the connection.
pub(super) async fn close(connection: &Connection) {
    let closing = connection.close(200, "OK".into());
    // There is nothing left to do about a connection that will not close.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
}

/// Waits for one answer of the broker, at most [`ANSWER_TIMEOUT`].
///
/// A silent peer is the heartbeat's business. This is for what is lost on the way within this process: an answer that is awaited
/// while its connection dies may never be told so.
pub(super) async fn answered<T>(answer: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
    let timed_out = || {
        let text = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Err(timed_out().into()))
}

async fn open(
    at: &Endpoint,
    connection_name: &str,
    tls: Option<Arc<RustlsConnector>>,
    timeout: Duration,
) -> Result<Broker, BrokerError> {
    let properties = ConnectionProperties::default()
        .with_connection_name(LongString::from(connection_name))
        .with_client_property("product".into(), LongString::from(env!("CARGO_PKG_NAME")))
        .with_client_property("version".into(), LongString::from(env!("CARGO_PKG_VERSION")));
    let refused = |source: lapin::Error| refusal(at.clone(), source);
    let timed_out = || BrokerError::TimedOut { at: at.clone(), after: timeout };

    let tls = tls.filter(|_| at.is_tls());
    let attempt = Attempt::default();
    let socket = attempt.socket();
    let connecting = async {
        let runtime = lapin::runtime::default_runtime()?;
        let uri = at.uri().clone();
        // lapin runs this on its own thread, which a timeout out here would not end: so it has one of its own.
        Connection::connector(
            uri,
            runtime,
            async move |uri: AMQPUri, runtime| {
                let host = uri.authority.host;
                let stream = async {
                    let addresses: Vec<SocketAddr> =
                        tokio::net::lookup_host((host.clone(), uri.authority.port)).await?.collect();
                    AsyncTcpStream::connect(&runtime, addresses).await
                };
                let stream = within(timeout, stream).await.map_err(TransportFailure::tcp)?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    socket.is(plain.get_ref()).map_err(TransportFailure::tcp)?;
                }
                let Some(tls) = &tls else { return Ok(stream) };
                let stream =
                    within(timeout, stream.into_rustls(tls, &host)).await.map_err(TransportFailure::tls)?;
                Ok(stream)
            },
            properties,
        )
        .await
    };
    let connection =
        tokio::time::timeout(timeout, connecting).await.map_err(|_| timed_out())?.map_err(refused)?;
    attempt.succeeded();
    // Events are dropped while nobody listens; an earlier loss is noticed when the first channel is opened.
    let events = connection.events_listener().boxed();
    Ok(Broker { connection: Arc::new(connection), events, at: at.clone() })
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Tells, through lapin's own error and back, how far the transport came.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct TransportFailure {
    #[source]
    error: io::Error,
    tls: bool,
}

impl TransportFailure {
    fn tcp(error: io::Error) -> io::Error {
        io::Error::new(error.kind(), Self { error, tls: false })
    }

    fn tls(error: io::Error) -> io::Error {
        io::Error::new(error.kind(), Self { error, tls: true })
    }
}

/// The verdict on an error before the connection was open.
fn refusal(at: Endpoint, source: lapin::Error) -> BrokerError {
    if let Some(error) = protocol_error(&source) {
        let text = error.get_message().to_string();
        return match error.get_id() {
            reply::ACCESS_REFUSED => BrokerError::LoginRefused { at, text },
            reply::NOT_ALLOWED => BrokerError::VhostRefused { at, text },
            code => BrokerError::ConnectionClosed { at, code, text },
        };
    }
    let failure = match source.kind() {
        ErrorKind::IOError(error) => {
            error.get_ref().and_then(|inner| inner.downcast_ref::<TransportFailure>())
        }
        _ => None,
    };
    match failure {
        Some(TransportFailure { tls: true, .. }) => BrokerError::Tls { at, source },
        Some(_) => BrokerError::Unreachable { at, source },
        None => BrokerError::Handshake { at, source },
    }
}
