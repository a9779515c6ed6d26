//! A source's database as configuration describes it, for every room that needs some of it.

use std::{fmt, time::Duration};

use pg_replication::{Endpoint, ReplicationConnection, ReplicationError};

/// A schema-qualified table name, unquoted parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableName {
    /// Schema; `public` when the configuration names none.
    pub schema: String,
    /// Table.
    pub table: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// The database of one source, and what is made and read there.
#[derive(Clone, Debug)]
pub struct SourceDatabase {
    /// Where and how to connect.
    pub endpoint: Endpoint,
    /// Replication slot.
    pub slot: String,
    /// Publication: inserts only, this one table.
    pub publication: String,
    /// Create publication and slot when they are missing; otherwise only verify.
    pub create: bool,
    /// The slot that outboxd makes is synchronised to standbys (PostgreSQL 17 and later).
    pub failover: bool,
    /// The outbox table.
    pub table: TableName,
    /// Schema of outboxd's own tables: by default that of the outbox table.
    pub schema: String,
    /// Configuration of its rows.
    pub rows: RowRules,
    /// Removing its confirmed rows; `None`: they stay.
    pub cleanup: Option<Cleanup>,
    /// Policy may put rows aside, so there must be a table for them.
    pub parks: bool,
    /// Sent as `wal_sender_timeout` of the replication connection: how long a vanished client keeps the slot.
    pub wal_sender_timeout: Duration,
}

/// Configuration of the table's rows, whatever they are read for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowRules {
    /// `outbox.unpublished`: an SQL condition. Rows for which it is false were published before outboxd came, and are left out.
    /// Where it is neither true nor false, a row is published.
    pub unpublished: Option<String>,
    /// `outbox.created_at_zone`: the time zone of a `created_at` without one.
    pub created_at_zone: Option<String>,
    /// `backlog = "skip"`: rows older than the slot are not read.
    pub skip_backlog: bool,
}

/// The choice of rows to be removed: key `cleanup.retention_s`, with `cleanup.mode = "delete"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// How long a row stays after the time in its `created_at`; zero: no longer than until its message is confirmed.
    pub retention: Duration,
}

impl SourceDatabase {
    /// Connects in replication mode.
    ///
    /// # Errors
    /// [`ReplicationError::Connect`].
    pub async fn connect_replication(
        &self,
        application_name: &str,
    ) -> Result<ReplicationConnection, ReplicationError> {
        ReplicationConnection::connect(&self.endpoint, application_name, self.wal_sender_timeout).await
    }

    /// Tells whether whoever gets the slot next makes it a failover slot, unless it is one: the configuration wants one, and lets
    /// outboxd make it.
    pub(crate) fn makes_failover(&self, is_failover: bool) -> bool {
        self.failover && self.create && !is_failover
    }
}
