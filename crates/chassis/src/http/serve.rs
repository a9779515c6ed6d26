//! Connections, each within limits: a client that sends or reads half of something holds nothing for long.

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

/// From the connection's begin to the last byte of its first request's head.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// From the end of one answer to the last byte of the next request's head: the life of an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for which a client may take nothing of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Beyond this, the client that was waited for the longest makes room. Below the usual limit of 1024 open files.
const CONNECTIONS_MAX: usize = 800;
/// Files that may be open for other ends than HTTP and the database: the consumers' connections, logs, timers.
const OTHER_FILES: usize = 64;

/// Answers until `shutdown`, and then what is under way. What the HTTP side takes of the files that may be open leaves
/// `database_connections_max` and what consumers need.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    database_connections_max: usize,
    mut shutdown: Shutdown,
) {
    let max = within_open_files(CONNECTIONS_MAX, OTHER_FILES + database_connections_max);
    let ended = shutdown.clone();
    let serve = |stream, turn| converse(stream, router.clone(), turn, ended.clone());
    let end = async {
        shutdown.requested().await;
    };
    let mut connections = http_connections::accept(listener, "HTTP", max, end, serve).await;
    connections.all_ended().await;
}

/// One connection's requests. When the end is asked for, the request under way is the last; without one, the connection is cut.
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
            // 1. What has arrived counts, however long this process had no turn.
            ended = connection.as_mut() => break ended,
            // 2. The limit on the first head.
            () = first_head.as_mut(), if is_first => {
                if !turn.has_asked() {
                    return;
                }
                is_first = false;
            }
            // 3. The end. hyper would wait for the first request of a connection.
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
        // A client that goes away or talks nonsense is its own affair.
        tracing::debug!(%error, "a connection failed");
    }
}

/// The kernel gives a connection up whose client is gone, or takes nothing of what was sent.
fn limit_writes(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(WRITE_TIMEOUT)) {
        tracing::debug!(%error, "a connection has no limit for its writes");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (SockRef::from(stream), WRITE_TIMEOUT);
}
