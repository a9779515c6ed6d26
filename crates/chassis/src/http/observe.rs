//! Trace, id, log line and metrics of every request.

use std::time::Instant;

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderValue, Method, request::Parts},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;

use super::{REQUEST_ID, RequestId};
use crate::{
    metrics::Metrics,
    trace::{self, TraceContext},
};

/// Methods with a name in the metrics.
const KNOWN: [Method; 4] = [Method::GET, Method::POST, Method::HEAD, Method::OPTIONS];
/// Paths that probes and scrapers request every few seconds; logged at a lower level.
const QUIET: [&str; 5] = ["/healthz", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json"];

/// Continues the caller's trace or begins one, accepts its request id or makes one, and returns both with the answer.
pub(super) async fn observe(State(metrics): State<Metrics>, mut request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let given = request.headers().get(trace::HEADER).and_then(|value| value.to_str().ok());
    let trace = TraceContext::follow(given);
    let id = RequestId::accept(request.headers().get(REQUEST_ID));
    let method = request.method().clone();
    // The pattern, because the number of paths is unlimited.
    let path = request.extensions().get::<MatchedPath>().map_or("(none)", MatchedPath::as_str).to_owned();
    let span =
        tracing::info_span!("request", trace_id = trace.trace_id(), request_id = id.as_str(), %method, path);
    let traceparent = HeaderValue::try_from(trace.to_string());
    let request_id = HeaderValue::try_from(id.as_str());
    request.extensions_mut().insert(trace);
    request.extensions_mut().insert(id);
    let answer = async {
        let mut response = next.run(request).await;
        if let Ok(traceparent) = traceparent {
            response.headers_mut().insert(trace::HEADER, traceparent);
        }
        if let Ok(request_id) = request_id {
            response.headers_mut().insert(REQUEST_ID, request_id);
        }
        let (status, took) = (response.status().as_u16(), begin.elapsed());
        // The number of extension methods is unlimited, too.
        let named = if KNOWN.contains(&method) { method.as_str() } else { "other" };
        metrics.answered(named, &path, status, took);
        if QUIET.contains(&path.as_str()) {
            tracing::debug!(status, took_ms = took.as_secs_f64() * 1000.0, "answered");
        } else {
            tracing::info!(status, took_ms = took.as_secs_f64() * 1000.0, "answered");
        }
        response
    };
    answer.instrument(span).await
}

/// The request's step in its trace.
impl<S: Send + Sync> FromRequestParts<S> for TraceContext {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<TraceContext>().cloned().unwrap_or_else(TraceContext::begin))
    }
}
