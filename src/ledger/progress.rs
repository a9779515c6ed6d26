//! How far a source is settled: what PostgreSQL may be told, and what a new connection goes on from.

use std::collections::BTreeSet;

use crate::{
    message::Timestamp,
    position::{Lsn, Position},
};

/// Proof that everything up to this LSN is settled: each message confirmed by the broker, its row parked, or given up by policy.
///
/// Only the ledger makes one, so acknowledging to PostgreSQL what was merely received does not compile.
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

/// How far a source is settled without a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here is settled. Always the end of a transaction or a place between two.
    pub confirmed: Option<ConfirmedLsn>,
    /// The last settled row. It lies beyond `confirmed` when its transaction is settled in part.
    pub position: Option<Position>,
    /// When that row's transaction committed.
    pub committed_at: Option<Timestamp>,
    /// Rows that were parked stand before this place in WAL.
    pub parked_before: Option<Lsn>,
}

impl Progress {
    /// Rows of a transaction are settled, and the whole of it is not. Only this process knows: to PostgreSQL the
    /// transaction is unconfirmed, and it will be sent again from its beginning.
    pub fn is_mid_transaction(&self) -> bool {
        let confirmed = self.confirmed.map_or(Lsn::ZERO, ConfirmedLsn::lsn);
        // A commit record's end, which is what gets confirmed, lies behind its beginning.
        self.position.is_some_and(|position| position.commit_lsn >= confirmed)
    }
}

/// All that is known to be settled: what a new connection goes on from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Everything up to here.
    pub progress: Progress,
    /// And rows beyond, whose messages were confirmed before others that had gone out earlier.
    pub ahead: BTreeSet<Position>,
}

impl Settled {
    /// How far WAL has to reach for this to be true. A server whose WAL ends before is not the one, or was set back.
    pub fn reaches(&self) -> Option<Lsn> {
        let Progress { confirmed, position, parked_before, .. } = self.progress;
        // At least one byte of the commit record.
        let settled = position.max(self.ahead.last().copied()).map(|row| Lsn(row.commit_lsn.0 + 1));
        confirmed.map(ConfirmedLsn::lsn).max(settled).max(parked_before)
    }
}
