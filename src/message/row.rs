//! A row of the outbox table, with its position, its commit time and its columns in PostgreSQL's text format.

use bytes::Bytes;

use super::Timestamp;
use crate::position::Position;

/// One column of the outbox table, as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name, as stored in `pg_attribute` (no quotes).
    pub name: String,
    /// OID of the column's type in `pg_type`, for example 3802 for jsonb.
    pub type_oid: u32,
}

/// A row of the outbox table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Position of the row in commit order.
    pub position: Position,
    /// Commit time of the transaction. For a backlog row, the time of the snapshot.
    pub committed_at: Timestamp,
    /// Values in the order of the columns that the [`Mapper`](super::Mapper) was resolved against. Each is the text of the type's
    /// output function, or `None` for NULL.
    pub values: Vec<Option<Bytes>>,
}
