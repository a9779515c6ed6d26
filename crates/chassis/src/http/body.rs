//! Request body: JSON of a known shape, or a refusal that names the field; or any bytes. Limited in size and time.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::ApiError;
use process::http_connections::Turn;

/// Limit from a request's head to its last byte.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Body as JSON, whatever its content type.
#[derive(Clone, Copy, Debug)]
pub struct Body<T>(pub T);

/// Body as it came: any bytes.
#[derive(Clone, Debug)]
pub struct RawBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let turn = request.extensions().get::<Turn>().cloned();
        if let Some(turn) = &turn {
            turn.is_clients();
        }
        let received = timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await.map_err(|_| {
            ApiError::too_slow(format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs()))
        })?;
        if let Some(turn) = &turn {
            turn.is_servers();
        }
        received.map(Self).map_err(|rejection| match rejection.status().as_u16() {
            413 => ApiError::too_large("the body is too large"),
            _ => ApiError::invalid("", format!("the body cannot be read: {}", rejection.body_text())),
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let RawBody(bytes) = RawBody::from_request(request, state).await?;
        object(&bytes).map(Self).map_err(|(path, error)| {
            // A path helps only for JSON of another shape.
            let field = if error.is_data() && path != "." { path.as_str() } else { "" };
            ApiError::invalid(field, error.to_string())
        })
    }
}

/// Parses exactly one JSON object. The error has the path to the problem.
fn object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, (String, serde_json::Error)> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    // serde would read an array as a structure, its elements as the fields.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err((".".to_owned(), serde::de::Error::custom("expected an object, not an array")));
    }
    let read = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| (error.path().to_string(), error.into_inner()))?;
    json.end().map_err(|error| (".".to_owned(), error))?;
    Ok(read)
}

/// Returns the value of a required field.
///
/// # Errors
///
/// 400, which names the field.
pub fn required<T>(field: &str, value: Option<T>) -> Result<T, ApiError> {
    value.ok_or_else(|| ApiError::invalid(field, format!("{field} is missing")))
}
