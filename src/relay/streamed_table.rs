//! Which relation of the stream is the outbox table, and what its columns are.

use crate::{
    message::Column,
    postgres::{TableName, outbox_table::TableFacts},
};
use pg_replication::pgoutput::Relation;

/// The outbox table as the stream names it. It is known by its OID and by its name: a table that is renamed under way
/// keeps the one, a table that is made anew keeps the other, and its rows count in both cases.
pub(super) struct StreamedTable {
    name: TableName,
    oid: u32,
    /// OIDs of the domains among its columns' types, with those of the types they are made from, which the stream
    /// does not tell.
    domains: Vec<(u32, u32)>,
}

impl StreamedTable {
    pub(super) fn new(name: TableName, facts: &TableFacts) -> Self {
        let types = facts.columns.iter().map(|column| (column.type_oid, column.base_type_oid));
        Self { name, oid: facts.oid, domains: types.filter(|(oid, base)| oid != base).collect() }
    }

    /// Whether rows of this relation are outbox rows.
    pub(super) fn is(&self, relation_oid: u32) -> bool {
        self.oid == relation_oid
    }

    /// Takes in the description of a relation; its columns, if it is the outbox table.
    pub(super) fn describe(&mut self, relation: &Relation) -> Option<Vec<Column>> {
        if relation.namespace == self.name.schema && relation.name == self.name.table {
            self.oid = relation.oid;
        } else if relation.oid == self.oid {
            tracing::warn!(
                "the outbox table {} is now called {}.{}: its rows are still relayed, but the next start needs \
                 outbox.table changed",
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
