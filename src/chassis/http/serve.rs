//! Connections, each within limits: a client that sends or reads half of something holds nothing for long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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
    task::JoinSet,
    time::sleep,
};

use crate::shutdown::Shutdown;

/// From the end of one answer, or the connection's begin, to the last byte of a request's head: also the life of an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for which a client may take nothing of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Beyond this, clients wait in the listener's queue. Below the usual limit of 1024 open files.
const CONNECTIONS_MAX: usize = 800;
/// After a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Answers until `shutdown`, and then what is under way.
pub(in crate::chassis) async fn serve(listener: TcpListener, router: Router, mut shutdown: Shutdown) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            // 1. The end comes first.
            _ = shutdown.requested() => break,
            // 2. Finished connections make room.
            Some(_) = connections.join_next() => {}
            // 3. New ones, while there is room.
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => { connections.spawn(converse(stream, router.clone(), shutdown.clone())); }
                Err(error) => {
                    tracing::warn!(%error, "the HTTP listener could not accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// One connection's requests. When the end is asked for, the request under way is the last; without one, the connection is cut.
async fn converse(stream: TcpStream, router: Router, mut shutdown: Shutdown) {
    limit_writes(&stream);
    let has_asked = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let (has_asked, router) = (Arc::clone(&has_asked), TowerToHyperService::new(router));
        move |request: Request<Incoming>| {
            has_asked.store(true, Ordering::Relaxed);
            router.call(request)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // hyper would wait for the first request of a connection.
        _ = shutdown.requested() => match has_asked.load(Ordering::Relaxed) {
            false => return,
            true => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        },
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
