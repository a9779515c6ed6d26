//! A source's database as the configuration describes it.

use std::{fmt, time::Duration};

use pg_replication::{Endpoint, ReplicationConnection, ReplicationError};

/// A schema-qualified table name. The parts are unquoted.
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

/// The database of one source, and the names of its slot, publication and tables.
#[derive(Clone, Debug)]
pub struct SourceDatabase {
    /// Server, role and connection options.
    pub endpoint: Endpoint,
    /// Replication slot.
    pub slot: String,
    /// Publication: inserts only, this one table.
    pub publication: String,
    /// Create publication and slot if they are missing; otherwise only verify.
    pub create: bool,
    /// Create a slot that is synchronised to standbys (PostgreSQL 17 and later).
    pub failover: bool,
    /// Outbox table.
    pub table: TableName,
    /// Schema of outboxd's own tables: by default that of the outbox table.
    pub schema: String,
    /// Configuration of the table's rows.
    pub rows: RowRules,
    /// Clean-up of confirmed rows; `None` keeps them.
    pub cleanup: Option<Cleanup>,
    /// Set if a policy parks rows, which needs the table of parked rows.
    pub parks: bool,
    /// `wal_sender_timeout` of the replication connection: the time for which a vanished client keeps the slot.
    pub wal_sender_timeout: Duration,
}

/// Configuration of the table's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowRules {
    /// `outbox.unpublished`: an SQL condition. Rows for which it is false were published before outboxd, and are left out. Rows for
    /// which it is NULL are published.
    pub unpublished: Option<String>,
    /// `outbox.created_at_zone`: the time zone of a `created_at` without one.
    pub created_at_zone: Option<String>,
    /// `backlog = "skip"`: rows older than the slot are not read.
    pub skip_backlog: bool,
}

/// Configuration of clean-up: key `cleanup.retention_s`, with `cleanup.mode = "delete"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// Time for which a row stays after its `created_at`. Zero removes it as soon as its message is confirmed.
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

    /// Tells whether the next holder turns the slot into a failover slot: the configuration asks for one and lets outboxd create it.
    pub(crate) fn makes_failover(&self, is_failover: bool) -> bool {
        self.failover && self.create && !is_failover
    }
}
