//! Everything that knows PostgreSQL. Knows nothing of RabbitMQ, of the ledger's inside, or of retry policy.

pub mod outbox_table;
pub mod own_table;
mod source_database;
pub(crate) mod sql_text;
pub(crate) mod sqlstate;
pub mod statement;
pub(crate) mod statement_remedy;
pub(crate) mod stored_values;

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
