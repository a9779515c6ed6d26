//! `Server-Timing`: how long each part of an answer took, for the browser.

use std::{fmt::Write as _, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Time of one service's part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) service: &'static str,
    pub(crate) took: Duration,
    /// Why there is no such part.
    pub(crate) missing: Option<&'static str>,
}

/// Adds the header.
pub(crate) fn write(timings: &[Timing], headers: &mut HeaderMap) {
    let mut text = String::new();
    for Timing { service, took, missing } in timings {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{service};dur={:.1}", took.as_secs_f64() * 1000.0);
        if let Some(missing) = missing {
            let _ = write!(text, ";desc=\"{missing}\"");
        }
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(SERVER_TIMING, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_time_and_a_missing_one_its_reason() {
        let timing = |service, ms, missing| Timing { service, took: Duration::from_micros(ms), missing };
        let mut headers = HeaderMap::new();
        write(&[timing("a", 1250, None), timing("b", 2_000_000, Some("timed out"))], &mut headers);
        assert_eq!(headers[SERVER_TIMING], "a;dur=1.2, b;dur=2000.0;desc=\"timed out\"");
    }
}
