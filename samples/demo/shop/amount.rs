//! Amounts of money in whole ten-thousandths: exact, as in the services.

use std::{fmt, iter::Sum, ops::Add};

/// Number of ten-thousandths, which PostgreSQL converts: `(total * 10000)::bigint`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount(pub(crate) i64);

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Add::add)
    }
}

/// Displayed as `12.34`, with more digits only if necessary.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, part) = (self.0.unsigned_abs() / 10_000, self.0.unsigned_abs() % 10_000);
        match part % 100 {
            0 => write!(f, "{sign}{whole}.{:02}", part / 100),
            _ => write!(f, "{sign}{whole}.{part:04}"),
        }
    }
}
