//! A connection of lapin's: TCP, TLS, login, vhost.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties, ErrorKind, tcp::RustlsConnector, types::LongString,
    uri::AMQPUri,
};
use rustls::ClientConfig;

use super::{
    super::{
        broker::BrokerOptions,
        endpoint::Endpoint,
        error::{BrokerError, protocol_error, reply},
    },
    abandon::Attempt,
};

/// How long a connection may take to close in good order before it is simply dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// One answer may take so long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Connects to the first URL that can be used, beginning with number `attempt` (modulo their number).
/// `connection_name` is shown by RabbitMQ's management and in its log.
pub(super) async fn connect(
    options: &BrokerOptions,
    connection_name: &str,
    attempt: usize,
) -> Result<(Connection, Endpoint), BrokerError> {
    let tls = options.tls_config()?;
    let mut tried = Vec::new();
    for at in options.rotated(attempt)? {
        match open(&at, connection_name, tls.as_ref(), options.connect_timeout).await {
            Ok(connection) => return Ok((connection, at)),
            Err(error) => tried.push(error),
        }
    }
    Err(BrokerError::of_all(tried))
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
    tls: Option<&ClientConfig>,
    timeout: Duration,
) -> Result<Connection, BrokerError> {
    let properties = ConnectionProperties::default()
        .with_connection_name(LongString::from(connection_name))
        .with_client_property("product".into(), LongString::from(env!("CARGO_PKG_NAME")))
        .with_client_property("version".into(), LongString::from(env!("CARGO_PKG_VERSION")));
    let refused = |source: lapin::Error| refusal(at.clone(), source);
    let timed_out = || BrokerError::TimedOut { at: at.clone(), after: timeout };

    let tls = tls.filter(|_| at.is_tls()).map(|config| Arc::new(RustlsConnector::from(config.clone())));
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
    Ok(connection)
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
