//! Reasons why a service has not answered, and what a caller is told.

use std::time::Duration;

use axum::{
    http::{HeaderValue, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use chassis::http::ApiError;
use tower::{BoxError, load_shed::error::Overloaded};
use tower_resilience_circuitbreaker::CircuitBreakerError;

use super::CallError;

/// Reason why a service has not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    /// The circuit refused the call; how long it will at least.
    Open(Duration),
    /// As many calls as allowed are under way.
    Overloaded,
    /// No connection.
    Unreachable(String),
    /// No answer within this time.
    TimedOut(Duration),
    /// The connection ended.
    Lost(String),
    /// The answer is too long.
    TooLong(String),
    /// The request cannot be made.
    NoRequest(String),
}

impl Outage {
    /// Returns the reason of an error from the layers around the client. `opens_in`: time for which the circuit stays open.
    pub(super) fn of(error: &BoxError, limit: Duration, opens_in: Option<Duration>) -> Self {
        if error.is::<Overloaded>() {
            return Self::Overloaded;
        }
        match error.downcast_ref::<CircuitBreakerError<CallError>>() {
            Some(CircuitBreakerError::OpenCircuit) => Self::Open(opens_in.unwrap_or_default()),
            Some(CircuitBreakerError::Inner(error)) => match error {
                CallError::Unreachable(_) => Self::Unreachable(error.to_string()),
                CallError::Lost(_) => Self::Lost(error.to_string()),
                CallError::TimedOut => Self::TimedOut(limit),
                CallError::TooLong => Self::TooLong(error.to_string()),
            },
            None => Self::Lost(error.to_string()),
        }
    }

    /// Returns the name in metrics and in `Server-Timing`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "circuit open",
            Self::Overloaded => "overloaded",
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut(_) => "timed out",
            Self::Lost(_) => "lost",
            Self::TooLong(_) => "too long",
            Self::NoRequest(_) => "no request",
        }
    }

    /// Returns the text for people, with what it means for the request.
    pub(crate) fn text(&self, service: &str) -> String {
        match self {
            Self::Open(_) => format!(
                "{service} has failed several times in a row, so it is not asked for a while; nothing was done; try again later"
            ),
            Self::Overloaded => {
                format!("too many requests wait for {service} already; nothing was done; try again later")
            }
            Self::Unreachable(error) => {
                format!("{service} cannot be reached ({error}); nothing was done; try again later")
            }
            Self::TimedOut(limit) => format!(
                "{service} has not answered within {} ms; a change may have been made or may still be; look before you ask again",
                limit.as_millis()
            ),
            Self::Lost(error) => format!(
                "{service} ended the connection before its answer was complete ({error}); a change may have been made; look before you ask again"
            ),
            Self::TooLong(error) => format!("{service}: {error}; ask for a smaller page, with limit"),
            Self::NoRequest(error) => format!("{service} cannot be asked this: {error}"),
        }
    }

    /// Returns the time after which another attempt makes sense, in whole seconds; `None` if the time is unknown.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Open(wait) => Some(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1)),
            Self::Overloaded | Self::Unreachable(_) => Some(1),
            _ => None,
        }
    }

    /// Returns the answer to the caller: 503 when the service has not got the request, 504 after the time limit, 502 for the rest.
    pub(crate) fn response(&self, service: &str) -> Response {
        let text = self.text(service);
        let error = match self {
            Self::Open(_) | Self::Overloaded | Self::Unreachable(_) => ApiError::unavailable(text),
            Self::TimedOut(_) => ApiError::gateway_timeout(text),
            Self::Lost(_) | Self::TooLong(_) => ApiError::bad_gateway(text),
            Self::NoRequest(_) => ApiError::invalid("", text),
        };
        let mut response = error.into_response();
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
