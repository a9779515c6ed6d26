//! Plain SQL to the source's database and its failures, the outbox table, and outboxd's own tables.
//!
//! Does not know slots, RabbitMQ, or retry policy.

pub mod outbox_table;
pub mod own_table;
mod source_database;
pub(crate) mod sql_text;
pub mod statement;
pub(crate) mod statement_remedy;
pub(crate) mod stored_values;

pub(crate) use pg_replication::sqlstate;
pub use source_database::{Cleanup, RowRules, SourceDatabase, TableName};

use crate::message::Column;
use pg_replication::pgoutput::RelationColumn;

impl From<&RelationColumn> for Column {
    fn from(column: &RelationColumn) -> Self {
        Column { name: column.name.clone(), type_oid: column.type_oid }
    }
}
