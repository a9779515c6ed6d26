//! Where a row stands in the write-ahead log: [`Lsn`] and [`Position`].
//!
//! Pure values, known to every room. Nothing here says whether a position was received, published or confirmed:
//! that proof is [`ConfirmedLsn`](crate::ledger::ConfirmedLsn), which only the ledger can make.

use std::{fmt, str::FromStr};

/// A log sequence number: a byte offset into the write-ahead log, written `16/B374D848` by PostgreSQL
/// (manual, section "pg_lsn Type").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, which PostgreSQL calls invalid: "from wherever the slot says".
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes of WAL from `earlier` to `self`; 0 when `self` is not ahead.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not of the form `16/B374D848`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an LSN such as 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let high = u32::from_str_radix(high, 16).ok()?;
            let low = u32::from_str_radix(low, 16).ok()?;
            Some(Lsn(u64::from(high) << 32 | u64::from(low)))
        };
        parse().ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

/// The place of one outbox row in commit order: its transaction's commit LSN, then the row's index in that transaction.
///
/// Sent with every message as `outbox-position`; comparing two of one source as strings gives commit order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// LSN of the transaction's commit record. For a backlog row, see [`postgres::backlog`](crate::postgres::backlog).
    pub commit_lsn: Lsn,
    /// 0 for the first outbox row of the transaction.
    pub index: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}-{:08X}", self.commit_lsn.0, self.index)
    }
}

/// The text is not of the form `00000000019A2F48-00000000`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a position such as 00000000019A2F48-00000000")]
pub struct ParsePositionError(String);

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (lsn, index) = text.split_once('-')?;
            let commit_lsn = Lsn(u64::from_str_radix(lsn, 16).ok()?);
            Some(Position { commit_lsn, index: u32::from_str_radix(index, 16).ok()? })
        };
        // Leading zeros, upper case, no sign: it is its own text.
        parse()
            .filter(|position: &Position| position.to_string() == text)
            .ok_or_else(|| ParsePositionError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_is_that_of_postgresql() {
        let lsn = Lsn(0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!("16/B374D848".parse(), Ok(lsn));
        for bad in ["", "/", "16", "16/", "/1", "1/123456789", "g/0", "1/2/3", "-1/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad} must not parse");
        }
    }

    #[test]
    fn positions_sort_as_text_as_they_sort_as_values() {
        let position = |commit_lsn, index| Position { commit_lsn: Lsn(commit_lsn), index };
        let ordered = [
            position(0, 0),
            position(0xFF, 9),
            position(0x100, 0),
            position(0x100, 0xA),
            position(0x100, 0x10),
            position(u64::MAX, u32::MAX),
        ];
        for pair in ordered.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(pair[0].to_string() < pair[1].to_string());
        }
        assert_eq!(ordered[2].to_string(), "0000000000000100-00000000");
        for position in ordered {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for bad in ["", "-", "100-0", "0000000000000100-0000000a", "+000000000000100-00000000"] {
            assert!(bad.parse::<Position>().is_err(), "{bad} must not parse");
        }
    }
}
