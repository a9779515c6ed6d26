//! Error answers: `{"error": ..., "field": ...}`.

use axum::{
    http::{
        HeaderValue, Method, StatusCode,
        header::{CONNECTION, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{database::DatabaseError, inbox::HandlingError};
use diagnostics::legible;

/// Refusal with its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

/// Body of every answer other than 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The problem, and the correct value.
    error: String,
    /// Place in the request, as a path such as `orderTotal.amount`; null for the request as a whole.
    field: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, error: impl Into<String>, field: Option<&str>) -> Self {
        let field = field.filter(|field| !field.is_empty()).map(str::to_owned);
        Self { status, body: ErrorBody { error: error.into(), field } }
    }

    /// 400: the field, or the request as a whole, is invalid.
    pub fn invalid(field: &str, error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, Some(field))
    }

    /// 404.
    pub fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, None)
    }

    /// 409: the resource's state does not allow the request.
    pub fn conflict(error: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error, None)
    }

    /// 503.
    pub fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, None)
    }

    /// 502: another service did not answer as it should.
    pub fn bad_gateway(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, error, None)
    }

    /// 504: another service did not answer in time.
    pub fn gateway_timeout(error: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, error, None)
    }

    /// 500. The log has the rest.
    fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "an internal error; see the service's log", None)
    }

    /// 408. The rest of the request is not read.
    pub(super) fn too_slow(error: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, error, None)
    }

    /// 413.
    pub(super) fn too_large(error: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, error, None)
    }

    /// 405.
    pub(super) fn method_not_allowed(method: &Method, path: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not answer to {method}"), None)
    }
}

/// The caller learns that the service is at fault. The log has the details.
impl From<DatabaseError> for ApiError {
    fn from(error: DatabaseError) -> Self {
        tracing::error!(%error, "a request failed");
        if error.is_unavailable() {
            return Self::unavailable("the database cannot be used now; try again later");
        }
        Self::internal()
    }
}

impl From<HandlingError> for ApiError {
    fn from(error: HandlingError) -> Self {
        match error {
            HandlingError::Database(error) => error.into(),
            HandlingError::Transient(error) => {
                tracing::error!(error, "a request failed");
                Self::unavailable("a store behind this answer cannot be used now; try again later")
            }
            HandlingError::Permanent(error) => {
                tracing::error!(error, "a request failed");
                Self::internal()
            }
        }
    }
}

impl From<tokio_postgres::Error> for ApiError {
    fn from(error: tokio_postgres::Error) -> Self {
        DatabaseError::from(error).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        // The texts may come from a request, a peer or a database, and people read them.
        let json = serde_json::to_string(&self.body).unwrap_or_default();
        let json = legible::json(&json).into_owned();
        let mut response = (self.status, [(CONTENT_TYPE, "application/json")], json).into_response();
        if self.status == StatusCode::REQUEST_TIMEOUT {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
