//! Positions in the write-ahead log: [`Lsn`] and [`Position`].
//!
//! Pure values, known to every room. A position does not tell whether its row was received, published or confirmed. The
//! proof of a confirm is [`ConfirmedLsn`](crate::ledger::ConfirmedLsn), which only the ledger creates.

use std::{fmt, str::FromStr};

pub use pg_replication::{Lsn, ParseLsnError};

/// Position of one outbox row in commit order: its transaction's commit LSN, then the row's index in that transaction.
///
/// Sent with every message as `outbox-position`. Comparing two of one source as strings gives commit order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// LSN of the transaction's commit record. For a backlog row, see [`backlog`](crate::backfill::backlog).
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
        // Leading zeros, upper case, no sign: only the exact form of `Display` is accepted.
        parse()
            .filter(|position: &Position| position.to_string() == text)
            .ok_or_else(|| ParsePositionError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
