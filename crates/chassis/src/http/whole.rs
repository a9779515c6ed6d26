//! Whole number in a body, a path or a query. JSON has one type of number, and JSON Schema counts `7.0` among the integers.

use std::fmt;

use serde::{
    Deserializer,
    de::{Error, Unexpected, Visitor},
};

/// Largest number up to which a binary fraction tells whole numbers apart: 2^53.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Deserializes a 64-bit integer, also when it is written with a point or an exponent. Null is none.
///
/// # Errors
///
/// The deserializer's error for any other value, and for a number with a point that is not exact: beyond 2^53.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    deserializer.deserialize_any(Whole)
}

/// Parses a 64-bit integer of a path or query, also when it ends with a point and zeros.
pub fn whole_text(text: &str) -> Option<i64> {
    let number = match text.split_once('.') {
        Some((number, zeros)) if !zeros.is_empty() && zeros.bytes().all(|digit| digit == b'0') => number,
        Some(_) => return None,
        None => text,
    };
    number.parse().ok()
}

struct Whole;

impl Visitor<'_> for Whole {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a 64-bit integer")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        let whole = i64::try_from(number);
        whole.map(Some).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        let is_exact = number.fract() == 0.0 && number.abs() <= EXACT_MAX;
        is_exact
            .then_some(Some(number as i64))
            .ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Option<Option<i64>> {
        whole(&mut serde_json::Deserializer::from_str(text)).ok()
    }

    #[test]
    fn a_number_without_a_fraction_is_whole_however_it_is_written() {
        for (text, number) in [
            ("7", 7),
            ("-7", -7),
            ("7.0", 7),
            ("-0.0", 0),
            ("1e3", 1000),
            ("9007199254740992.0", 9_007_199_254_740_992),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(read(text), Some(Some(number)), "{text}");
        }
        assert_eq!(read("null"), Some(None));
    }

    #[test]
    fn a_text_is_whole_like_a_number() {
        for (text, number) in [
            ("7", Some(7)),
            ("-7.00", Some(-7)),
            ("9223372036854775807.0", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("7.", None),
            ("7.5", None),
            ("7.0.0", None),
            (".0", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(whole_text(text), number, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "7.5",
            "1e-1",
            "9007199254740994.0",
            "1e300",
            "9223372036854775808",
            "\"7\"",
            "true",
            "[7]",
            "{}",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
