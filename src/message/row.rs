//! What the relay knows of one row: its place, its commit time, and its columns as PostgreSQL's text output.

use bytes::Bytes;

use super::Timestamp;
use crate::position::Position;

/// One column of the outbox table, as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name, as stored in `pg_attribute` (no quotes).
    pub name: String,
    /// OID of its type in `pg_type`, for instance 3802 for jsonb.
    pub type_oid: u32,
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
