//! HTTP client of the services: hyper-util's, with connections that are kept. One call is one request and its whole answer.

use std::time::Duration;

use axum::http::Response;
use diagnostics::chain;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;

use super::Call;
use crate::settings::Limits;

/// Life of an idle connection: shorter than a service keeps one (30 s), so that no request meets its end.
const IDLE: Duration = Duration::from_secs(15);
/// Largest answer: more than any page of a list.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(super) type Client = legacy::Client<HttpConnector, Full<Bytes>>;

/// Reason why a call has no whole answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum CallError {
    /// No connection: the service has not got the request.
    #[error("{0}")]
    Unreachable(String),
    /// The connection ended before the whole answer.
    #[error("{0}")]
    Lost(String),
    /// The time was over.
    #[error("the time is over")]
    TimedOut,
    /// More than [`ANSWER_BYTES_MAX`].
    #[error("the answer is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

pub(super) fn new(limits: &Limits) -> Client {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(limits.in_flight_max)
        // Whoever asked decides whether to ask again.
        .retry_canceled_requests(false)
        .build(connector)
}

/// Sends a request and reads the whole answer, within the call's limit.
pub(super) async fn exchange(client: Client, call: Call) -> Result<Response<Bytes>, CallError> {
    let answered = async {
        let response = client.request(call.request).await.map_err(|error| {
            let text = chain(&error);
            if error.is_connect() { CallError::Unreachable(text) } else { CallError::Lost(text) }
        })?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            match error.downcast_ref::<LengthLimitError>() {
                Some(_) => CallError::TooLong,
                None => CallError::Lost(chain(&*error)),
            }
        })?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    timeout(call.limit, answered).await.unwrap_or(Err(CallError::TimedOut))
}
