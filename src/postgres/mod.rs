//! Everything that knows PostgreSQL. Knows nothing of RabbitMQ, of the ledger's inside, or of retry policy.

pub(crate) mod answer;
mod connect;
mod connect_error;
mod connection_options;
pub(crate) mod connection_string;
pub mod endpoint;
mod endpoint_error;
#[cfg(test)]
mod hostile;
pub mod hosting;
mod login;
mod login_methods;
pub mod outbox_table;
pub mod own_table;
mod password_file;
pub mod pgoutput;
pub mod quote;
pub(crate) mod remedy;
pub mod replication;
mod service_file;
mod socket;
mod sql_limits;
mod sql_socket;
pub(crate) mod sql_text;
pub(crate) mod sqlstate;
pub mod statement;
pub(crate) mod statement_remedy;
pub mod stored_text;
pub(crate) mod stored_values;
mod tls;
mod wire;
mod wire_error;

/// The old paths of what has a room of its own.
pub use crate::{
    backfill::{backlog, snapshot},
    cleanup,
    parking::{parked_rows, parked_table},
    preflight::{
        self, condition, dba_script,
        facts::{family, foreign_code, left_behind, server as server_facts},
        inspection,
    },
    slot::{
        continuity, creation as slot_creation, facts as slot_facts, history as slot_history, invalidation,
        open_transactions, publication, record as slot_record, temporary as temporary_slot,
        usage as slot_use,
    },
};

/// The old paths of facts and statements.
pub mod catalog {
    pub(crate) use super::sqlstate::OBJECT_IN_USE;
    pub use super::{
        outbox_table::{ColumnFacts, Generated, TableFacts, TableKind, is_empty, table},
        own_table::{OwnTableFacts, own_table},
        preflight::Facts,
        server_facts::{ServerFacts, server},
        slot_creation::{create_slot, create_slot_sql, drop_slot},
        slot_facts::{SlotFacts, slot_progress, slots, wal_end},
        statement::{CatalogError, limit_statements},
    };
}

/// What can go wrong between us and a server.
pub mod error {
    pub use super::{
        connect_error::ConnectError,
        endpoint_error::EndpointError,
        wire_error::{AuthenticationError, ServerError, WireError},
    };
}

use crate::outbox::Column;
use pgoutput::RelationColumn;
use replication::{ReplicationConnection, ReplicationError};

impl From<&RelationColumn> for Column {
    fn from(column: &RelationColumn) -> Self {
        Column { name: column.name.clone(), type_oid: column.type_oid }
    }
}

/// A schema-qualified table name, unquoted parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableName {
    /// Schema; `public` when the configuration names none.
    pub schema: String,
    /// Table.
    pub table: String,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// What one source needs to know of its database.
#[derive(Clone, Debug)]
pub struct SourceDatabase {
    /// Where and how to connect.
    pub endpoint: endpoint::Endpoint,
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
    pub rows: snapshot::RowRules,
    /// Removing its confirmed rows; `None`: they stay.
    pub cleanup: Option<cleanup::Cleanup>,
    /// Policy may put rows aside, so there must be a table for them.
    pub parks: bool,
    /// Sent as `wal_sender_timeout` of the replication connection: how long a vanished client keeps the slot.
    pub wal_sender_timeout: std::time::Duration,
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
