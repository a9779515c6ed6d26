//! Around every request: its trace, its log line, its metrics.

use std::time::Instant;

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderValue, Method, request::Parts},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;

use crate::{
    metrics::Metrics,
    trace::{self, TraceContext},
};

/// Methods that have a name in the metrics.
const KNOWN: [Method; 4] = [Method::GET, Method::POST, Method::HEAD, Method::OPTIONS];
/// What probes and scrapers ask every few seconds is not worth a line at the usual level.
const QUIET: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/openapi.json"];

/// Takes up the caller's trace, or begins one, and gives it back with the answer.
pub(super) async fn observe(State(metrics): State<Metrics>, mut request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let given = request.headers().get(trace::HEADER).and_then(|value| value.to_str().ok());
    let trace = TraceContext::follow(given);
    let method = request.method().clone();
    // The pattern and not the path itself, of which there may be any number.
    let path = request.extensions().get::<MatchedPath>().map_or("(none)", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", trace_id = trace.trace_id(), %method, path);
    let traceparent = HeaderValue::try_from(trace.to_string());
    request.extensions_mut().insert(trace);
    let answer = async {
        let mut response = next.run(request).await;
        if let Ok(traceparent) = traceparent {
            response.headers_mut().insert(trace::HEADER, traceparent);
        }
        let (status, took) = (response.status().as_u16(), begin.elapsed());
        // Of extension methods, too, there may be any number.
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

/// The request's step of its trace.
impl<S: Send + Sync> FromRequestParts<S> for TraceContext {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<TraceContext>().cloned().unwrap_or_else(TraceContext::begin))
    }
}
