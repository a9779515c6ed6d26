//! One request to the admin endpoints of the running daemon, as `outboxd status` and `outboxd health` send it.
//!
//! Knows addresses, paths and time limits. Does not know what an answer means.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, Uri, client::conn::http1::handshake, header::HOST};
use hyper_util::rt::TokioIo;
use std::{error::Error, io, net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// Time limit from connecting to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Largest answer: thousands of sources fit.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Failure to get an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(
        "no daemon answers at {0}: check that `outboxd run` is running, with the admin.listen of this configuration"
    )]
    Connect(SocketAddr, #[source] io::Error),
    #[error("the daemon at {0} accepted the connection but did not answer within {DEADLINE:?}; see its log")]
    Deadline(SocketAddr),
    #[error("the connection to {0} failed before the daemon answered")]
    Http(SocketAddr, #[source] hyper::Error),
    #[error("the answer of {0} broke off")]
    Body(SocketAddr, #[source] Box<dyn Error + Send + Sync>),
    #[error("{0} answered with {1}; admin.listen may be the address of another program")]
    Code(SocketAddr, StatusCode),
}

/// Returns the body of the daemon's answer to `GET path`.
pub(super) async fn ask(address: SocketAddr, path: &'static str) -> Result<Bytes, AskError> {
    timeout(DEADLINE, answer(address, path)).await.map_err(|_| AskError::Deadline(address))?
}

async fn answer(address: SocketAddr, path: &'static str) -> Result<Bytes, AskError> {
    let http = |error| AskError::Http(address, error);
    let stream = TcpStream::connect(address).await.map_err(|error| AskError::Connect(address, error))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(http)?;
    // The task ends with the answer; the request returns the same error.
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::from_static(path);
    if let Ok(host) = address.to_string().parse() {
        request.headers_mut().insert(HOST, host);
    }
    let response = sender.send_request(request).await.map_err(http)?;
    if !response.status().is_success() {
        return Err(AskError::Code(address, response.status()));
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| AskError::Body(address, error))?.to_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    #[tokio::test]
    async fn what_is_not_a_daemon_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stranger = tokio::spawn(async move {
            for answer in ["HTTP/1.1 404 No\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{", ""] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let read = stream.read(&mut [0; 1024]).await.unwrap();
                assert!(read > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert!(matches!(ask(address, "/healthz").await, Err(AskError::Code(..))));
        assert!(matches!(ask(address, "/healthz").await, Err(AskError::Body(..))));
        assert!(matches!(ask(address, "/healthz").await, Err(AskError::Http(..))));
        stranger.await.unwrap();
        let error = ask(address, "/healthz").await.unwrap_err();
        assert!(matches!(error, AskError::Connect(..)), "{error:?}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_hangs_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(matches!(ask(address, "/healthz").await, Err(AskError::Deadline(_))));
    }
}
