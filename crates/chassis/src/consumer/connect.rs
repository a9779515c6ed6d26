//! Connection of lapin to a broker that has accepted this user before.

use std::{io, sync::Arc, time::Duration};

use amqp_publisher::{BrokerError, ConnectionOptions, Endpoint, connection::dial, error::Cause};
use async_rs::Runtime;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, types::LongString};

use super::{
    abandon::Attempt,
    guard::{Guard, InHand},
    transport::{Guarded, GuardedTokio},
};

/// Least frame size of a consumer: RabbitMQ's default, which every publisher may fill with headers. lapin reserves 32
/// frames in each direction: 8 MiB, of which it uses what the traffic needs.
pub(super) const FRAME_MAX: u32 = 128 * 1024;
/// Largest frame size of a consumer, whatever the URL's `frame_max`: 128 MiB for lapin.
const FRAME_MAX_LIMIT: u32 = 2 * 1024 * 1024;
/// Limit for closing a connection in order. After it the connection is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Connects. The caller has checked that the broker accepts this user, so any failure here is a broken connection.
/// RabbitMQ's management and log show `name`. At most `prefetch` messages are unacknowledged; `in_hand` counts them.
pub(super) async fn connect(
    options: &ConnectionOptions,
    at: &Endpoint,
    name: &str,
    prefetch: u16,
    in_hand: &InHand,
) -> Result<Connection, BrokerError> {
    let properties = ConnectionProperties::default()
        .with_connection_name(LongString::from(name))
        .with_client_property("product".into(), LongString::from(options.client.product))
        .with_client_property("version".into(), LongString::from(options.client.version));
    let mut uri = at.uri().clone();
    let frame_max = uri.query.frame_max.unwrap_or_default().clamp(FRAME_MAX, FRAME_MAX_LIMIT);
    uri.query.frame_max = Some(frame_max);
    let frame_bytes_max = usize::try_from(frame_max).unwrap_or(usize::MAX);
    let after = options.connect_timeout;
    let tls = options.tls_config()?.map(Arc::new);
    let attempt = Attempt::default();
    let socket = attempt.socket();
    let connecting = async {
        let (at, in_hand) = (at.clone(), in_hand.clone());
        // lapin runs this on its own thread, which a timeout outside would not end. So the timeout is inside.
        Connection::connector(
            uri,
            Runtime::new(GuardedTokio::current()),
            async move |_, _| {
                let stream = within(after, dial::tcp(&at)).await?;
                socket.is(&stream)?;
                let stream = within(after, dial::secured(&at, tls.as_ref(), stream)).await?;
                let guard = Guard::new(frame_bytes_max, prefetch, in_hand.clone());
                Ok(AsyncTcpStream::Plain(Guarded::new(stream, guard)))
            },
            properties,
        )
        .await
    };
    let connection = tokio::time::timeout(after, connecting)
        .await
        .map_err(|_| BrokerError::TimedOut { at: at.clone(), after })?
        .map_err(|source| BrokerError::Handshake { at: at.clone(), source: Cause::new(source) })?;
    attempt.succeeded();
    Ok(connection)
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, BrokerError>>) -> io::Result<T> {
    let done = tokio::time::timeout(limit, work).await;
    match done {
        Ok(done) => done.map_err(io::Error::other),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Closes the connection in order, within [`CLOSE_TIMEOUT`]: lapin writes nothing, not even a close, while the broker
/// blocks the connection.
pub(super) async fn close(connection: &Connection) {
    let closing = connection.close(200, "OK".into());
    // A connection that does not close in time is dropped.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
}

/// Waits for one answer of the broker, for at most [`ANSWER_TIMEOUT`].
///
/// The heartbeat detects a silent peer. This limit is for an answer lost within the process: lapin may not report to
/// a waiting call that its connection has ended.
pub(super) async fn answered<T>(answer: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
    let timed_out = || {
        let text = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Err(timed_out().into()))
}
