//! Id in a path such as `/orders/{id}`.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};

use super::{ApiError, whole_text};

/// 64-bit integer, the only variable part of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(pub i64);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = Path::<String>::from_request_parts(parts, state).await.ok();
        let id = text.and_then(|Path(text)| whole_text(&text));
        id.map(Self).ok_or_else(|| ApiError::invalid("id", "the id in the path is not a 64-bit integer"))
    }
}
