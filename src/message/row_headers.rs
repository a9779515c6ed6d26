//! The row's own headers: a JSON object whose members become AMQP header values without losing digits.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::HeaderValue;

/// The members of a row's headers object, not decoded. The last of two equal names counts, as in jsonb.
#[derive(Debug, Default)]
pub(super) struct RowHeaders<'a>(BTreeMap<String, &'a RawValue>);

/// Reason why a headers column cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeadersError {
    NotJson,
    NotObject,
}

impl<'a> RowHeaders<'a> {
    /// Parses the text of a json or jsonb value. JSON null means no headers, like SQL NULL.
    ///
    /// # Errors
    ///
    /// [`HeadersError`].
    pub(super) fn parse(text: &'a str) -> Result<Self, HeadersError> {
        let document: &RawValue = serde_json::from_str(text).map_err(|_| HeadersError::NotJson)?;
        match document.get().as_bytes().first() {
            Some(b'{') => {
                serde_json::from_str(document.get()).map(RowHeaders).map_err(|_| HeadersError::NotJson)
            }
            Some(b'n') => Ok(RowHeaders::default()),
            _ => Err(HeadersError::NotObject),
        }
    }

    /// Returns the member's text for a template: a string as it is, anything else as JSON. `None` for null or a missing member.
    ///
    /// # Errors
    ///
    /// [`HeadersError`] if the string has an invalid escape.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, HeadersError> {
        let Some(raw) = self.0.get(name) else { return Ok(None) };
        match raw.get() {
            "null" => Ok(None),
            text if text.starts_with('"') => string(text).map(Some),
            text => Ok(Some(text.to_owned())),
        }
    }

    /// Returns every member with its AMQP value, sorted by name.
    pub(super) fn into_values(self) -> impl Iterator<Item = Result<(String, HeaderValue), HeadersError>> {
        self.0.into_iter().map(|(name, raw)| Ok((name, header_value(raw.get())?)))
    }
}

fn header_value(json: &str) -> Result<HeaderValue, HeadersError> {
    Ok(match json.as_bytes().first() {
        Some(b'"') => HeaderValue::Text(string(json)?),
        Some(b't') => HeaderValue::Boolean(true),
        Some(b'f') => HeaderValue::Boolean(false),
        Some(b'n') => HeaderValue::Null,
        Some(b'-' | b'0'..=b'9') => number(json),
        _ => HeaderValue::Text(json.to_owned()),
    })
}

/// Converts a number. One that no AMQP type can hold exactly becomes text.
fn number(json: &str) -> HeaderValue {
    let exact = || HeaderValue::Text(json.to_owned());
    if json.contains(['.', 'e', 'E']) {
        let double =
            json.parse().ok().filter(|double: &f64| significant(json) == significant(&format!("{double:e}")));
        double.map_or_else(exact, HeaderValue::Double)
    } else {
        json.parse().map_or_else(|_| exact(), HeaderValue::Integer)
    }
}

/// Splits a decimal number into its digits without surrounding zeros and the power of ten of the last digit. `1.50` and `15e-1`
/// give the same result. The sign is dropped.
fn significant(number: &str) -> (String, i64) {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole.trim_start_matches('-'), fraction].concat();
    let kept = digits.trim_end_matches('0');
    let kept_digits = kept.trim_start_matches('0').to_owned();
    if kept_digits.is_empty() {
        return (kept_digits, 0);
    }
    // No double has such an exponent.
    let exponent = exponent.parse::<i64>().unwrap_or(i64::MAX / 2);
    let places = digits.len() as i64 - kept.len() as i64 - fraction.len() as i64;
    (kept_digits, exponent + places)
}

fn string(json: &str) -> Result<String, HeadersError> {
    serde_json::from_str(json).map_err(|_| HeadersError::NotJson)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use HeaderValue::{Boolean, Double, Integer, Null, Text};

    fn values(json: &str) -> Vec<(String, HeaderValue)> {
        RowHeaders::parse(json).unwrap().into_values().map(|value| value.unwrap()).collect()
    }

    #[test]
    fn every_json_shape_has_its_amqp_value() {
        for (json, expected) in [
            (r#""x""#, Text("x".into())),
            (r#""""#, Text(String::new())),
            (r#""Grüße \"\u00fc\" \ud83d\ude00""#, Text("Grüße \"ü\" 😀".into())),
            ("true", Boolean(true)),
            ("false", Boolean(false)),
            ("null", Null),
            ("0", Integer(0)),
            ("-1", Integer(-1)),
            ("9223372036854775807", Integer(i64::MAX)),
            ("-9223372036854775808", Integer(i64::MIN)),
            ("9223372036854775808", Text("9223372036854775808".into())),
            ("123456789012345678901234567890", Text("123456789012345678901234567890".into())),
            ("0.5", Double(0.5)),
            ("1.0", Double(1.0)),
            ("-2e3", Double(-2000.0)),
            ("1e400", Text("1e400".into())),
            ("1e-400", Text("1e-400".into())),
            ("1e99999999999999999999", Text("1e99999999999999999999".into())),
            ("0e5", Double(0.0)),
            ("1.50", Double(1.5)),
            ("100.0e-2", Double(1.0)),
            ("0.30000000000000004", Double(0.30000000000000004)),
            ("5e-324", Double(5e-324)),
            // A double would be 12345678901234568, and 0.1 with other digits after it.
            ("12345678901234567.89", Text("12345678901234567.89".into())),
            ("0.1000000000000000000001", Text("0.1000000000000000000001".into())),
            ("[]", Text("[]".into())),
            (r#"[1, {"b": null}]"#, Text(r#"[1, {"b": null}]"#.into())),
            (r#"{"n": 12345678901234567890.10}"#, Text(r#"{"n": 12345678901234567890.10}"#.into())),
        ] {
            assert_eq!(values(&format!(r#" {{ "a" : {json} }} "#)), [("a".to_owned(), expected)], "{json}");
        }
    }

    #[test]
    fn the_last_of_two_equal_names_counts() {
        assert_eq!(
            values(r#"{"a": 1, "b": 2, "\u0061": 3}"#),
            [("a".into(), Integer(3)), ("b".into(), Integer(2))]
        );
    }

    #[test]
    fn null_means_none_and_other_documents_are_refused() {
        assert_eq!(values("null"), []);
        assert_eq!(values("{}"), []);
        for json in ["[]", "1", "\"{}\"", "true"] {
            assert_eq!(RowHeaders::parse(json).unwrap_err(), HeadersError::NotObject, "{json}");
        }
        for json in ["", "{", "{} {}", "{\"a\"}", "{a: 1}"] {
            assert_eq!(RowHeaders::parse(json).unwrap_err(), HeadersError::NotJson, "{json}");
        }
        // The type json accepts a lone surrogate, which UTF-8 cannot express.
        assert!(RowHeaders::parse(r#"{"a": "\ud800"}"#).and_then(|h| h.text("a")).is_err());
    }

    #[test]
    fn a_template_sees_strings_raw_and_the_rest_as_json() {
        let headers = RowHeaders::parse(r#"{"s": "é\n", "n": 1.50, "o": {"a": 1}, "z": null}"#).unwrap();
        assert_eq!(headers.text("s"), Ok(Some("é\n".into())));
        assert_eq!(headers.text("n"), Ok(Some("1.50".into())));
        assert_eq!(headers.text("o"), Ok(Some(r#"{"a": 1}"#.into())));
        assert_eq!(headers.text("z"), Ok(None));
        assert_eq!(headers.text("none"), Ok(None));
    }
}
