//! Money: an exact decimal, in JSON `{"amount": 12.34}`. No service ever turns it into a binary fraction.

use std::{error::Error, fmt};

use bytes::BytesMut;
use rust_decimal::Decimal;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Number, value::RawValue};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};
use utoipa::ToSchema;

/// Largest amount: 10^12.
const MAX: Decimal = Decimal::from_parts(0xD4A5_1000, 0xE8, 0, false, 0);
/// Zeros of the largest amount.
const MAX_DIGITS: u32 = 12;
/// Most digits after the point: some currencies have three, and prices one more.
const SCALE_MAX: u32 = 4;

/// An amount that fits the column type `numeric(17, 4)`: at most 10^12, at most four digits after the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(Decimal);

/// Reason why a number is not an amount of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMoney {
    /// No number, as JSON writes it.
    #[error("is not a number")]
    NotANumber,
    /// Too precise.
    #[error("has more than {SCALE_MAX} digits after the point")]
    TooPrecise,
    /// Too large, positive or negative.
    #[error("is more than {MAX}")]
    TooLarge,
}

impl Money {
    /// Parses a JSON number.
    ///
    /// # Errors
    ///
    /// [`NotMoney`] when the text is no number, or cannot be kept exactly or is too large.
    pub fn parse(text: &str) -> Result<Self, NotMoney> {
        if serde_json::from_str::<Number>(text).is_err() {
            return Err(NotMoney::NotANumber);
        }
        let (digits, exponent) = match text.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, exponent.parse::<i64>().map_err(|_| NotMoney::TooLarge)?),
            None => (text, 0),
        };
        // Trailing zeros mean nothing, and there may be more of them than fit.
        let digits =
            if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
        let decimal = Decimal::from_str_exact(digits).map_err(|_| match digits.contains('.') {
            true => NotMoney::TooPrecise,
            false => NotMoney::TooLarge,
        })?;
        Self::try_from(shifted(decimal, exponent)?)
    }

    /// Returns an amount of this many hundredths, for an example.
    pub(super) fn example(hundredths: u32) -> Self {
        Self(Decimal::new(hundredths.into(), 2).normalize())
    }

    /// Returns the amount in ten-thousandths, exactly, for a store without decimals: at most 10^16, which 64 bits hold.
    pub fn ten_thousandths(self) -> i64 {
        let mut decimal = self.0;
        // Rescaling a number of at most 17 digits to four decimals loses nothing.
        decimal.rescale(SCALE_MAX);
        i64::try_from(decimal.mantissa()).unwrap_or(i64::MAX)
    }

    /// Returns the amount of this many ten-thousandths.
    ///
    /// # Errors
    ///
    /// [`NotMoney`] for more than 10^16.
    pub fn of_ten_thousandths(units: i64) -> Result<Self, NotMoney> {
        Self::try_from(Decimal::new(units, SCALE_MAX))
    }

    /// Tells whether the amount is above zero.
    pub fn is_positive(self) -> bool {
        self.0 > Decimal::ZERO
    }

    /// Tells whether the amount is below zero.
    pub fn is_negative(self) -> bool {
        self.0 < Decimal::ZERO
    }
}

impl TryFrom<Decimal> for Money {
    type Error = NotMoney;

    fn try_from(decimal: Decimal) -> Result<Self, NotMoney> {
        let decimal = decimal.normalize();
        if decimal.abs() > MAX {
            return Err(NotMoney::TooLarge);
        }
        if decimal.scale() > SCALE_MAX {
            return Err(NotMoney::TooPrecise);
        }
        Ok(Self(decimal))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Returns the number times ten to the power of `exponent`, exactly.
fn shifted(decimal: Decimal, exponent: i64) -> Result<Decimal, NotMoney> {
    let mut decimal = decimal.normalize();
    if decimal.is_zero() {
        return Ok(decimal);
    }
    let scale = i64::from(decimal.scale()).saturating_sub(exponent);
    if let Ok(scale) = u32::try_from(scale) {
        return decimal.set_scale(scale).map(|()| decimal).map_err(|_| NotMoney::TooPrecise);
    }
    decimal.set_scale(0).map_err(|_| NotMoney::TooPrecise)?;
    let zeros = u32::try_from(scale.unsigned_abs()).ok().filter(|zeros| *zeros <= MAX_DIGITS);
    let power = zeros.and_then(|zeros| 10_u64.checked_pow(zeros)).map(Decimal::from);
    power.and_then(|power| decimal.checked_mul(power)).ok_or(NotMoney::TooLarge)
}

/// JSON object of an amount.
#[derive(Deserialize, Serialize)]
struct Json {
    /// The number's digits, because a parser would turn them into a binary fraction.
    amount: Box<RawValue>,
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object)
    }
}

/// Visitor of an object. A derived one would accept an array, too.
struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Money;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as {\"amount\": 12.34}")
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Money, M::Error> {
        let Json { amount } = Json::deserialize(MapAccessDeserializer::new(map))?;
        Money::parse(amount.get()).map_err(|error| M::Error::custom(format_args!("amount {error}")))
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let amount = RawValue::from_string(self.0.to_string()).map_err(serde::ser::Error::custom)?;
        Json { amount }.serialize(serializer)
    }
}

/// Written as PostgreSQL's `numeric`.
impl ToSql for Money {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.0.to_sql(ty, out)
    }

    accepts!(NUMERIC);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Money {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        // The column always has four decimals.
        Ok(Self(Decimal::from_sql(ty, raw)?.normalize()))
    }

    accepts!(NUMERIC);
}

/// Deserializes an amount above zero.
///
/// # Errors
///
/// The deserializer's error for any other amount.
pub fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Money, D::Error> {
    let money = Money::deserialize(deserializer)?;
    money.is_positive().then_some(money).ok_or_else(|| D::Error::custom("amount must be more than zero"))
}

/// Deserializes an amount of zero or more.
///
/// # Errors
///
/// The deserializer's error for a negative amount.
pub fn not_negative<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Money, D::Error> {
    let money = Money::deserialize(deserializer)?;
    (!money.is_negative()).then_some(money).ok_or_else(|| D::Error::custom("amount must not be negative"))
}

/// Total of an order.
#[derive(ToSchema)]
#[schema(as = OrderTotal)]
pub struct OrderTotalSchema {
    /// Exact decimal number: more than zero, at most 10^12, at most four digits after the point.
    #[schema(value_type = f64, exclusive_minimum = 0, maximum = 1_000_000_000_000_u64, multiple_of = 0.0001, example = 12.34)]
    pub amount: (),
}

/// Limit of the total of a customer's approved orders.
#[derive(ToSchema)]
#[schema(as = CreditLimit)]
pub struct CreditLimitSchema {
    /// Exact decimal number: zero or more, at most 10^12, at most four digits after the point.
    #[schema(value_type = f64, minimum = 0, maximum = 1_000_000_000_000_u64, multiple_of = 0.0001, example = 1000.00)]
    pub amount: (),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_digit_is_lost_on_the_way() {
        for (text, shown) in [
            ("12.34", "12.34"),
            ("0.1", "0.1"),
            ("100.00", "100"),
            ("999999999999.9999", "999999999999.9999"),
            ("1000000000000", "1000000000000"),
            ("1.25e2", "125"),
            ("1E12", "1000000000000"),
            ("125e-2", "1.25"),
            ("0e99999", "0"),
            ("12.3400000000000000000000000000000000000000000000", "12.34"),
            ("-3", "-3"),
            ("0.0000", "0"),
        ] {
            let money: Money = serde_json::from_str(&format!(r#"{{"amount": {text}}}"#)).unwrap();
            assert_eq!(serde_json::to_string(&money).unwrap(), format!(r#"{{"amount":{shown}}}"#));
            assert_eq!(Money::of_ten_thousandths(money.ten_thousandths()), Ok(money));
        }
    }

    #[test]
    fn what_cannot_be_kept_exactly_is_refused() {
        for text in [
            r#"{"amount": "12.34"}"#,
            r#"{"amount": null}"#,
            r#"{"amount": 0.00001}"#,
            r#"{"amount": 1000000000000.01}"#,
            r#"{"amount": 1e30}"#,
            r#"{"amount": 1e400}"#,
            r#"{"amount": 1e-400}"#,
            r#"{"amount": 1e99999999999999999999}"#,
            r#"{"amount": 0.99999999999999999999999999999999e0}"#,
            r#"{"amount": 99999999999999999999999999999.9}"#,
            r#"{"amount": 99999999999999999999999999999999999999999}"#,
            r#"{"amount": NaN}"#,
            r#"{"amount": {}}"#,
            "{}",
            "12.34",
            "[12.34]",
        ] {
            assert!(serde_json::from_str::<Money>(text).is_err(), "{text}");
        }
    }
}
