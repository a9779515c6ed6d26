//! The HTTP server: four read-only paths for probes, scrapers and people.
//!
//! Each connection carries one request and lives for a few seconds at most. Beyond a maximum of connections, the server closes the
//! one that has waited the longest. So slow clients, or many of them, neither hold memory, nor delay a probe, nor hold up a shutdown.

use super::Board;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use diagnostics::legible;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use process::http_connections::{self, Turn, within_open_files};
use std::{io, net::SocketAddr, pin::pin, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// Time limit from accept to the last byte of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit from accept to the last byte of the request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum of connections. One more closes the connection that has waited the longest.
const CONNECTIONS_MAX: usize = 64;
/// Open files reserved for the sources' connections, logs and timers, under a low limit on open files.
const OTHER_FILES: usize = 128;
/// Time limit for answers in progress after a shutdown request.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Failure to start the admin endpoints.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be bound.
    #[error(
        "cannot listen on {address} for the admin endpoints: stop the program that uses that address, or change admin.listen"
    )]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// Binds the address. Separate from [`serve`]: a daemon that cannot bind ends before it starts anything.
///
/// # Errors
///
/// Fails when the address is in use, or does not belong to this machine.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| AdminError::Bind { address, source })
}

/// Serves requests from `board` until `shutdown` completes, and at most a second longer.
pub async fn serve(listener: TcpListener, board: Board, shutdown: impl Future<Output = ()>) {
    let router = router(board);
    let max = within_open_files(CONNECTIONS_MAX, OTHER_FILES);
    let serve = |stream, turn| answer(stream, router.clone(), turn);
    let mut connections = http_connections::accept(listener, "admin", max, shutdown, serve).await;
    // The drop of the set aborts the answers that are left.
    let _ = timeout(SHUTDOWN_GRACE, connections.all_ended()).await;
}

async fn answer(stream: TcpStream, router: Router, turn: Turn) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| turn.clone().answering(router.call(request)));
    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    let mut answering = pin!(timeout(CONNECTION_TIMEOUT, connection));
    let answered = tokio::select! {
        biased;
        // 1. A request that has arrived is answered, however long this process got no CPU.
        answered = &mut answering => answered,
        // 2. The limit on a head.
        () = sleep(HEAD_TIMEOUT) => match turn.has_asked() {
            true => answering.await,
            false => return tracing::debug!("closed an admin connection that sent no request"),
        },
    };
    match answered {
        Ok(Ok(())) => {}
        // A client that disconnects or sends no HTTP is no problem of ours.
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection failed"),
        Err(_) => tracing::debug!("closed an admin connection that took too long"),
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
    match legible::document(&board.status()) {
        Ok(json) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
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

    /// Bytes that the server sends before it closes the connection.
    async fn rest(stream: &mut TcpStream) -> Vec<u8> {
        let mut text = Vec::new();
        // A connection closed with unread bytes ends with an error.
        let _ = timeout(CONNECTION_TIMEOUT * 3, stream.read_to_end(&mut text)).await.expect("an end");
        text
    }

    /// Opens a connection that the client holds: without a request, with half a request, with single bytes, without reading, or
    /// with its own half closed.
    async fn hold(address: SocketAddr, number: usize) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        match number % 5 {
            0 => {}
            1 => stream.write_all(b"GET /healthz HTTP/1.1\r\nhost:").await.unwrap(),
            2 => stream.write_all(b"G").await.unwrap(),
            3 => stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap(),
            _ => {
                stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        }
        stream
    }

    #[tokio::test]
    async fn two_hundred_clients_that_hold_their_connections_keep_no_probe_from_its_answer() {
        let (address, _stop, _server) = started(&Board::new()).await;
        let mut held = Vec::new();
        for number in 0..200 {
            held.push(hold(address, number).await);
        }
        for round in 0..20 {
            for stream in held.iter_mut().skip(2).step_by(5) {
                let _ = stream.try_write(b"x");
            }
            let begun = Instant::now();
            let (code, ..) =
                timeout(CONNECTION_TIMEOUT, ask(address, Method::GET, "/healthz")).await.unwrap();
            assert_eq!(code, 200);
            println!("probe {round}: {:?}", begun.elapsed());
            held.push(hold(address, round).await);
        }
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_is_waited_for_two_seconds() {
        let (address, _stop, _server) = started(&Board::new()).await;
        for said in ["", "GET /healthz HTTP/1.1\r\nhost:"] {
            let begun = Instant::now();
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let text = rest(&mut stream).await;
            assert!(text.is_empty(), "{}", text.escape_ascii());
            let waited = begun.elapsed();
            assert!((HEAD_TIMEOUT..CONNECTION_TIMEOUT).contains(&waited), "{said:?}: {waited:?}");
        }
    }

    #[tokio::test]
    async fn a_taken_address_is_named_with_its_cure() {
        let (address, _stop, _server) = started(&Board::new()).await;
        let text = bind(address).await.unwrap_err().to_string();
        assert!(text.contains(&address.to_string()) && text.contains("admin.listen"), "{text}");
    }
}
