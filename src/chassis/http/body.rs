//! A request's body: JSON of a known shape, or a refusal that names the field.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use serde::de::DeserializeOwned;

use super::ApiError;

/// The body as JSON, whatever its content type says.
#[derive(Clone, Copy, Debug)]
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            match rejection.status().as_u16() {
                413 => ApiError::too_large("the body is too large"),
                _ => ApiError::invalid("", format!("the body cannot be read: {}", rejection.body_text())),
            }
        })?;
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { "" } else { &path };
            ApiError::invalid(field, error.into_inner().to_string())
        })?;
        json.end().map_err(|error| ApiError::invalid("", error.to_string()))?;
        Ok(Self(read))
    }
}

/// A field that has to be there.
///
/// # Errors
///
/// 400, naming it.
pub fn required<T>(field: &str, value: Option<T>) -> Result<T, ApiError> {
    value.ok_or_else(|| ApiError::invalid(field, format!("{field} is missing")))
}
