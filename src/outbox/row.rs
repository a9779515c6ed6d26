//! What the relay knows of one row: its place, its commit time, and its columns as PostgreSQL's text output.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::position::Position;

/// One column of the outbox table, as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name, as stored in `pg_attribute` (no quotes).
    pub name: String,
    /// OID of its type in `pg_type`, for instance 3802 for jsonb.
    pub type_oid: u32,
}

/// Microseconds since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// What the system's clock says.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later, as two machines' clocks may have it.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(Timestamp(micros): Timestamp) -> Self {
        let distance = Duration::from_micros(micros.unsigned_abs());
        let time =
            if micros < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
        time.unwrap_or(UNIX_EPOCH)
    }
}

/// A row of the outbox table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its place in commit order.
    pub position: Position,
    /// When its transaction committed; for a backlog row, when the snapshot was taken.
    pub committed_at: Timestamp,
    /// One value a column, in the order of the columns that the [`Mapper`](super::Mapper) was resolved against;
    /// text as the type's output function gives it, `None` for NULL.
    pub values: Vec<Option<Bytes>>,
}
