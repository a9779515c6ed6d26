//! Everything that knows PostgreSQL. Knows nothing of RabbitMQ, of the ledger's inside, or of retry policy.

pub mod outbox_table;
pub mod own_table;
mod source_database;
pub(crate) mod sql_text;
pub(crate) mod sqlstate;
pub mod statement;
pub(crate) mod statement_remedy;
pub(crate) mod stored_values;

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

/// The old paths of the replication client.
pub use pg_replication::{pgoutput, stored_text};
/// The old path of endpoints.
pub mod endpoint {
    pub use pg_replication::{Endpoint, Words};
}
/// The old path of errors of connections.
pub mod error {
    pub use pg_replication::{AuthenticationError, ConnectError, EndpointError, ServerError, WireError};
}
/// The old path of who runs a server.
pub mod hosting {
    pub use pg_replication::Hosting;
}
/// The old path of the replication connection.
pub mod replication {
    pub use pg_replication::{
        BeforeStream, END_WITH_CLIENT, ReplicationConnection, ReplicationError, ReplicationEvent,
        ReplicationStream, SystemIdentity,
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
