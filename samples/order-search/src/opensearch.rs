//! OpenSearch's REST API, as far as the view needs it: JSON requests, each for a limited time.
//!
//! hyper-util's client keeps connections; nothing more is needed for plain HTTP. A server with TLS stands behind a proxy.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::time::timeout;

use chassis::inbox::HandlingError;
use diagnostics::chain;

/// Limit for a connection, and for one answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(10);
/// Most characters of a server's words in an error.
const WORDS_MAX: usize = 500;

/// A server, and the prefix of the indices' names.
#[derive(Clone, Debug)]
pub(crate) struct OpenSearch {
    client: Client<HttpConnector, Full<Bytes>>,
    /// host:port.
    authority: String,
    authorization: Option<HeaderValue>,
    pub(crate) prefix: String,
}

/// Answer of the server.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
}

impl OpenSearch {
    /// Reads `http://user:password@host:port/prefix`. Connects only when needed.
    ///
    /// # Errors
    ///
    /// What is wrong with the URL, without any part of it.
    pub(crate) fn parse(url: &str, default_prefix: &str) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "is no valid URL")?;
        let authority = uri.authority().ok_or("names no host")?.as_str();
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, authority),
        };
        if uri.query().is_some() {
            return Err("has options, of which there are none");
        }
        let prefix = match uri.path().trim_matches('/') {
            "" => default_prefix,
            prefix => prefix,
        };
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if !prefix.starts_with(|c: char| c.is_ascii_lowercase()) || !prefix.chars().all(is_plain) {
            return Err(
                "has a path that is no prefix of an index: lower-case letters, digits, - _ and ., a letter first",
            );
        }
        let basic = |user: &str| {
            let user: Vec<u8> = percent_decode_str(user).collect();
            let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(user)));
            value.iter_mut().for_each(|value| value.set_sensitive(true));
            value.ok()
        };
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            authority: authority.to_owned(),
            authorization: user.and_then(basic),
            prefix: prefix.to_owned(),
        })
    }

    /// Sends a request and returns the answer, whatever its status.
    ///
    /// # Errors
    ///
    /// [`HandlingError::Transient`] without a whole answer in time.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, HandlingError> {
        match timeout(LIMIT, self.exchange(method, path, body)).await {
            Ok(answer) => answer.map_err(|why| self.unavailable(&why)),
            Err(_) => Err(self.unavailable(&format!("no answer within {} s", LIMIT.as_secs()))),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}/{path}", self.authority))
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| chain(&error))?;
        let response = self.client.request(request).await.map_err(|error| chain(&error))?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|error| chain(&error))?.to_bytes();
        // What stands in front of the server may answer in another form.
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Answer { status, body })
    }

    /// Returns the error of an answer that is none of those expected. The server is at fault, or what it may do is
    /// restricted, so a later attempt may succeed.
    pub(crate) fn refused(&self, answer: &Answer) -> HandlingError {
        let words = answer.reason().map_or_else(|| answer.body.to_string(), str::to_owned);
        let words: String = words.chars().take(WORDS_MAX).collect();
        self.unavailable(&format!("it answers {}: {words}", answer.status))
    }

    fn unavailable(&self, why: &str) -> HandlingError {
        HandlingError::Transient(format!(
            "the index at {} (view_url) cannot be used: {why}; see that the server runs, that its disk is not full, and that the \
             service's user may read and write there",
            self.authority
        ))
    }
}

impl Answer {
    /// Returns the type of the error.
    pub(crate) fn error_type(&self) -> Option<&str> {
        self.body["error"]["type"].as_str()
    }

    /// Tells whether the index of the request does not exist.
    pub(crate) fn is_index_missing(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.error_type() == Some("index_not_found_exception")
    }

    fn reason(&self) -> Option<&str> {
        self.body["error"]["reason"].as_str()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_has_host_prefix_and_user() {
        let plain = OpenSearch::parse("http://search:9200", "order-search").unwrap();
        assert_eq!((plain.authority.as_str(), plain.prefix.as_str()), ("search:9200", "order-search"));
        assert_eq!(plain.authorization, None);
        let full = OpenSearch::parse("http://ada:p%40ss@search:9200/shop-2/", "order-search").unwrap();
        assert_eq!((full.authority.as_str(), full.prefix.as_str()), ("search:9200", "shop-2"));
        assert_eq!(full.authorization.as_ref().unwrap(), "Basic YWRhOnBAc3M=");
        assert!(!format!("{full:?}").contains("YWRh"));
        for wrong in ["http://", "http://search:9200/UPPER", "http://search/a/b", "http://search/a?b=c"] {
            assert!(OpenSearch::parse(wrong, "order-search").is_err(), "{wrong}");
        }
    }
}
