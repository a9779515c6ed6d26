//! The ledger (sketch: only what other rooms need).
use crate::position::Lsn;

/// Proof that every message up to this LSN was confirmed by the broker (or settled by policy).
/// Only the ledger makes one, so acknowledging something merely received does not compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfirmedLsn(Lsn);

impl ConfirmedLsn {
    /// The proven position.
    pub fn lsn(self) -> Lsn {
        self.0
    }
}
