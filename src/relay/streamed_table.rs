//! The outbox table in the stream: the relation that it is, and its columns.

use crate::{
    message::Column,
    postgres::{TableName, outbox_table::TableFacts},
};
use pg_replication::pgoutput::Relation;

/// The outbox table as the stream names it, by OID and by name. A table that is renamed keeps its OID, a table that is created anew
/// keeps its name. Rows count in both cases.
pub(super) struct StreamedTable {
    name: TableName,
    oid: u32,
    /// Domain types of the columns with their base types. The stream does not tell base types.
    domains: Vec<(u32, u32)>,
}

impl StreamedTable {
    pub(super) fn new(name: TableName, facts: &TableFacts) -> Self {
        let types = facts.columns.iter().map(|column| (column.type_oid, column.base_type_oid));
        Self { name, oid: facts.oid, domains: types.filter(|(oid, base)| oid != base).collect() }
    }

    /// Returns whether rows of this relation are outbox rows.
    pub(super) fn is(&self, relation_oid: u32) -> bool {
        self.oid == relation_oid
    }

    /// Applies the description of a relation. Returns the columns if it is the outbox table.
    pub(super) fn describe(&mut self, relation: &Relation) -> Option<Vec<Column>> {
        if relation.namespace == self.name.schema && relation.name == self.name.table {
            self.oid = relation.oid;
        } else if relation.oid == self.oid {
            tracing::warn!(
                "the outbox table {} is now called {}.{}: its rows are still relayed; change outbox.table before the next start",
                self.name,
                relation.namespace,
                relation.name
            );
        }
        if relation.oid != self.oid {
            return None;
        }
        let mut columns: Vec<Column> = relation.columns.iter().map(Column::from).collect();
        for column in &mut columns {
            if let Some((_, base)) = self.domains.iter().find(|(domain, _)| *domain == column.type_oid) {
                column.type_oid = *base;
            }
        }
        Some(columns)
    }
}
