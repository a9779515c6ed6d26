//! The HTTP side: four read-only paths for probes, scrapers and people.
//!
//! Each connection carries one request and lives for a few seconds at most, and there is a limit to their number. So
//! neither a slow client nor many of them can hold memory, and shutdown never waits long for anyone.

use super::Board;
use crate::legible;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use std::{io, net::SocketAddr, pin::pin, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// From accept to the last byte of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Beyond this, clients wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long answers under way may still take after shutdown was asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// After a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The admin endpoints cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is not to be had.
    #[error(
        "cannot listen on {address} for the admin endpoints: stop what uses that address, or set admin.listen to another"
    )]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Takes the address. Apart from [`serve`], so that a daemon that cannot have it ends before it starts anything.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| AdminError::Bind { address, source })
}

/// Answers from `board` until `shutdown` completes, and then at most a second longer.
pub async fn serve(listener: TcpListener, board: Board, shutdown: impl Future<Output = ()>) {
    let router = router(board);
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            // 1. The end comes first.
            () = &mut shutdown => break,
            // 2. Finished connections make room.
            Some(_) = connections.join_next() => {}
            // 3. New ones, while there is room.
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => { connections.spawn(answer(stream, router.clone())); }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener could not accept a connection");
                    tokio::select! { () = &mut shutdown => break, () = sleep(ACCEPT_PAUSE) => {} }
                }
            },
        }
    }
    drop(listener);
    // What has not finished by then is aborted when the set is dropped.
    let _ = timeout(SHUTDOWN_GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn answer(stream: TcpStream, router: Router) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        // A client that goes away or talks nonsense is its own affair.
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection failed"),
        Err(_) => tracing::debug!("an admin connection took too long"),
    }
}

fn router(board: Board) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .fallback(async || (StatusCode::NOT_FOUND, "try /healthz, /readyz, /metrics or /status\n"))
        .with_state(board)
}

async fn readyz(State(board): State<Board>) -> impl IntoResponse {
    let readiness = board.readiness();
    let code = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, readiness.to_string())
}

async fn metrics(State(board): State<Board>) -> impl IntoResponse {
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], board.metrics())
}

async fn status(State(board): State<Board>) -> impl IntoResponse {
    match serde_json::to_string_pretty(&board.status()) {
        Ok(json) => {
            let json = legible::json(&json).into_owned() + "\n";
            ([(CONTENT_TYPE, "application/json")], json).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::admin::SourceState;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty};
    use hyper::{Method, Request, client::conn::http1::handshake};
    use std::time::Instant;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
        task::JoinHandle,
    };

    async fn started(board: &Board) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server =
            tokio::spawn(serve(listener, board.clone(), async { stopped.await.unwrap_or_default() }));
        (address, stop, server)
    }

    /// Status code, content type and body.
    async fn ask(address: SocketAddr, method: Method, path: &str) -> (u16, String, String) {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "outboxd");
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, content_type, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_four_paths_answer_from_the_board() {
        let board = Board::new();
        let orders = board.reporter("orders");
        let (address, stop, server) = started(&board).await;

        let (code, _, body) = ask(address, Method::GET, "/healthz").await;
        assert_eq!((code, body.as_str()), (200, "ok\n"));

        let (code, _, body) = ask(address, Method::GET, "/readyz").await;
        assert_eq!(code, 503);
        assert!(body.starts_with("orders: connecting since ") && body.ends_with(": starting\n"), "{body}");
        orders.state(SourceState::Streaming, "connected");
        assert_eq!(ask(address, Method::GET, "/readyz").await.0, 200);

        let (code, content_type, body) = ask(address, Method::GET, "/metrics").await;
        assert_eq!((code, content_type.as_str()), (200, "text/plain; version=0.0.4"));
        assert!(body.contains("outboxd_source_state{source=\"orders\",state=\"streaming\"} 1\n"), "{body}");

        let (code, content_type, body) = ask(address, Method::GET, "/status").await;
        assert_eq!((code, content_type.as_str()), (200, "application/json"));
        let read: crate::admin::Status = serde_json::from_str(&body).unwrap();
        assert_eq!(read.sources, board.status().sources);

        stop.send(()).unwrap();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "the address is free again");
    }

    #[tokio::test]
    async fn other_methods_and_paths_are_refused() {
        let (address, _stop, _server) = started(&Board::new()).await;
        for path in ["/healthz", "/readyz", "/metrics", "/status"] {
            assert_eq!(ask(address, Method::POST, path).await.0, 405, "{path}");
        }
        for path in ["/", "/status/", "/metrics/x", "/debug"] {
            assert_eq!(ask(address, Method::GET, path).await.0, 404, "{path}");
        }
    }

    #[tokio::test]
    async fn an_unfinished_request_does_not_hold_up_the_end() {
        let (address, stop, server) = started(&Board::new()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost:").await.unwrap();
        assert_eq!(ask(address, Method::GET, "/healthz").await.0, 200, "others are served meanwhile");
        let asked = Instant::now();
        stop.send(()).unwrap();
        server.await.unwrap();
        assert!(asked.elapsed() < SHUTDOWN_GRACE + Duration::from_secs(2));
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or_default(), 0, "and was cut");
    }

    #[tokio::test]
    async fn silent_clients_only_delay_the_others() {
        let (address, _stop, _server) = started(&Board::new()).await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let waiting = tokio::spawn(ask(address, Method::GET, "/healthz"));
        sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished(), "the limit is reached");
        silent.clear();
        let (code, ..) = timeout(CONNECTION_TIMEOUT / 2, waiting).await.unwrap().unwrap();
        assert_eq!(code, 200);
    }

    #[tokio::test]
    async fn a_taken_address_is_named_with_its_cure() {
        let (address, _stop, _server) = started(&Board::new()).await;
        let text = bind(address).await.unwrap_err().to_string();
        assert!(text.contains(&address.to_string()) && text.contains("admin.listen"), "{text}");
    }
}
