//! Id of a request, which the caller gives or the service makes: in the log, in the answer, and in requests to other
//! services.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, request::Parts},
};

/// Header with the id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id of a caller that is accepted.
const LENGTH_MAX: usize = 128;

/// Id of a request: letters, digits and `-_.:` only, so that it is safe in a log and in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// Returns the caller's id, or makes one if the caller gave none that is acceptable.
    pub fn accept(given: Option<&HeaderValue>) -> Self {
        let given = given.and_then(|value| value.to_str().ok()).filter(|text| is_acceptable(text));
        given.map_or_else(Self::make, |text| Self(text.to_owned()))
    }

    /// Makes an id.
    pub fn make() -> Self {
        Self(format!("{:032x}", fastrand::u128(..)))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_acceptable(text: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(valid)
}

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(Self::make))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_forge_a_line_of_the_log_is_replaced() {
        for good in ["a", "7f3c-1:x_2.y", &"x".repeat(LENGTH_MAX)] {
            let value = HeaderValue::from_str(good).ok();
            assert_eq!(RequestId::accept(value.as_ref()).as_str(), good);
        }
        for bad in ["", "a b", "a\tb", "{\"a\"}", "\u{e9}", &"x".repeat(LENGTH_MAX + 1)] {
            let value = HeaderValue::from_str(bad).ok();
            let made = RequestId::accept(value.as_ref());
            assert!(made.as_str() != bad && is_acceptable(made.as_str()), "{bad}");
        }
        assert_ne!(RequestId::accept(None), RequestId::accept(None));
    }
}
