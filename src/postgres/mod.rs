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
mod source_database;
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
        own_table::OwnTableFacts,
        preflight::Facts,
        server_facts::{ServerFacts, server},
        slot_creation::{create_slot, drop_slot},
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

pub use source_database::{Cleanup, RowRules, SourceDatabase, TableName};

use crate::outbox::Column;
use pgoutput::RelationColumn;

impl From<&RelationColumn> for Column {
    fn from(column: &RelationColumn) -> Self {
        Column { name: column.name.clone(), type_oid: column.type_oid }
    }
}
