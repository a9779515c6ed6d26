//! Pages of long lists: `?limit=...&after=...`, and a `Link` header to the next page.

use axum::{
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, header::LINK, request::Parts},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{ApiError, Query, whole_text};

/// Most entries of a page, and the default.
const LIMIT_MAX: i64 = 10_000;

/// Page of a list ordered by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Most entries.
    pub limit: i64,
    /// Id before the first entry.
    pub after: i64,
}

/// Parameters in the query.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Most entries.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 10_000, default = 10_000)]
    limit: Option<String>,
    /// Only entries with a greater id.
    #[param(value_type = i64, required = false)]
    after: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(query) = Query::<PageQuery>::from_request_parts(parts, state).await?;
        let number = |field, text: Option<String>, default| match text.map(|text| whole_text(&text)) {
            None => Ok(default),
            Some(Some(number)) => Ok(number),
            Some(None) => Err(ApiError::invalid(field, format!("{field} is not a whole number"))),
        };
        let limit = number("limit", query.limit, LIMIT_MAX)?;
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(ApiError::invalid("limit", format!("limit must be between 1 and {LIMIT_MAX}")));
        }
        Ok(Self { limit, after: number("after", query.after, i64::MIN)? })
    }
}

/// Returns the header that links to the entries after `last`, the page's last id; none when the page was not full
/// (RFC 8288).
///
/// `path` is the list's path with its other parameters.
pub fn next_page(
    path: &str,
    page: Page,
    count: usize,
    last: Option<i64>,
) -> Option<[(HeaderName, HeaderValue); 1]> {
    let last = last.filter(|_| i64::try_from(count).is_ok_and(|count| count == page.limit))?;
    let separator = if path.contains('?') { '&' } else { '?' };
    let link = format!("<{path}{separator}limit={}&after={last}>; rel=\"next\"", page.limit);
    Some([(LINK, HeaderValue::try_from(link).ok()?)])
}
