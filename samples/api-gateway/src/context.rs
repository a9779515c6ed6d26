//! What a request hands on to the services: its trace and its id.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, request::Parts},
};
use chassis::{
    http::{REQUEST_ID, RequestId},
    trace::{self, TraceContext},
};

/// Trace and id of a request.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    trace: TraceContext,
    id: RequestId,
}

impl Context {
    /// Returns the context of a request that the gateway makes by itself.
    pub(crate) fn own() -> Self {
        Self { trace: TraceContext::begin(), id: RequestId::make() }
    }

    /// Writes the headers by which a service continues.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(self.trace.to_string()) {
            headers.insert(trace::HEADER, value);
        }
        if let Ok(value) = HeaderValue::try_from(self.id.as_str()) {
            headers.insert(REQUEST_ID, value);
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Context {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let trace = TraceContext::from_request_parts(parts, state).await?;
        let id = RequestId::from_request_parts(parts, state).await?;
        Ok(Self { trace, id })
    }
}
