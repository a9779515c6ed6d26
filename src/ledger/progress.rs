//! Progress of a source: the position that PostgreSQL may be told, and the state that a new connection continues from.

use std::collections::BTreeSet;

use crate::{
    message::Timestamp,
    position::{Lsn, Position},
};

/// Proof that everything up to this LSN is settled: each message confirmed by the broker, its row parked, or given up by policy.
///
/// Only the ledger creates one. Acknowledging a position that was merely received does not compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfirmedLsn(pub(super) Lsn);

impl ConfirmedLsn {
    /// The proven position.
    pub fn lsn(self) -> Lsn {
        self.0
    }
}

impl From<ConfirmedLsn> for Lsn {
    fn from(confirmed: ConfirmedLsn) -> Self {
        confirmed.0
    }
}

/// Contiguous progress of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here is settled. Always the end of a transaction or a place between two.
    pub confirmed: Option<ConfirmedLsn>,
    /// The last settled row, which is beyond `confirmed` if its transaction is settled in part.
    pub position: Option<Position>,
    /// Commit time of that row's transaction.
    pub committed_at: Option<Timestamp>,
    /// All parked rows are in WAL before this LSN.
    pub parked_before: Option<Lsn>,
}

impl Progress {
    /// Returns whether a transaction is settled in part. Only this process knows: to PostgreSQL the transaction is unconfirmed, and
    /// the server sends it again from its beginning.
    pub fn is_mid_transaction(&self) -> bool {
        let confirmed = self.confirmed.map_or(Lsn::ZERO, ConfirmedLsn::lsn);
        // `confirmed` is the end of a commit record, which is greater than the record's beginning.
        self.position.is_some_and(|position| position.commit_lsn >= confirmed)
    }
}

/// All that is settled. A new connection continues from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The contiguous part.
    pub progress: Progress,
    /// Rows beyond it, whose messages were confirmed before earlier ones.
    pub ahead: BTreeSet<Position>,
}

impl Settled {
    /// LSN that the server's WAL must reach for all of this to be true. A server whose WAL ends earlier is another one, or was set
    /// back.
    pub fn reaches(&self) -> Option<Lsn> {
        let Progress { confirmed, position, parked_before, .. } = self.progress;
        // Includes at least one byte of the commit record.
        let settled = position.max(self.ahead.last().copied()).map(|row| Lsn(row.commit_lsn.0 + 1));
        confirmed.map(ConfirmedLsn::lsn).max(settled).max(parked_before)
    }
}
