//! HTTP connections, each with limits: a client that sends or reads only a part holds nothing for long.

use std::time::Duration;

use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use process::{
    http_connections::{self, Turn, within_open_files},
    shutdown::Shutdown,
};

/// Limit from the start of a connection to the end of its first request's head.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit from one answer to the end of the next request's head: the life of an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit for a client that reads nothing of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Most connections. Beyond it the client that has been silent longest makes room. Below the usual limit of 1024 open
/// files.
const CONNECTIONS_MAX: usize = 800;
/// Files reserved for other purposes than HTTP and connections of the service's own: consumers, logs, timers.
const OTHER_FILES: usize = 64;

/// Answers requests until `shutdown`, and then those in progress. HTTP connections leave `files_max` open files for
/// the service's own connections, and some for consumers.
pub(crate) async fn serve(listener: TcpListener, router: Router, files_max: usize, mut shutdown: Shutdown) {
    let max = within_open_files(CONNECTIONS_MAX, OTHER_FILES + files_max);
    let ended = shutdown.clone();
    let serve = |stream, turn| converse(stream, router.clone(), turn, ended.clone());
    let end = async {
        shutdown.requested().await;
    };
    let mut connections = http_connections::accept(listener, "HTTP", max, end, serve).await;
    connections.all_ended().await;
}

/// Serves one connection. At the shutdown the current request is the last one; an idle connection is closed.
async fn converse(stream: TcpStream, router: Router, turn: Turn, mut shutdown: Shutdown) {
    limit_writes(&stream);
    let service = service_fn({
        let (turn, router) = (turn.clone(), TowerToHyperService::new(router));
        move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(turn.clone());
            turn.clone().answering(router.call(request))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut first_head = std::pin::pin!(sleep(FIRST_HEAD_TIMEOUT));
    let mut is_first = true;
    let ended = loop {
        tokio::select! {
            biased;
            // 1. Data that has arrived counts, however long this process had no turn.
            ended = connection.as_mut() => break ended,
            // 2. The limit on the first head.
            () = first_head.as_mut(), if is_first => {
                if !turn.has_asked() {
                    return;
                }
                is_first = false;
            }
            // 3. The shutdown. hyper would wait for a connection's first request.
            _ = shutdown.requested() => match turn.has_asked() {
                false => return,
                true => {
                    connection.as_mut().graceful_shutdown();
                    break connection.await;
                }
            },
        }
    };
    if let Err(error) = ended {
        // A client that disconnects or sends invalid data is not this service's problem.
        tracing::debug!(%error, "a connection failed");
    }
}

/// Sets the time after which the kernel closes a connection whose client is gone or reads nothing.
fn limit_writes(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(WRITE_TIMEOUT)) {
        tracing::debug!(%error, "a connection has no limit for its writes");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (SockRef::from(stream), WRITE_TIMEOUT);
}
