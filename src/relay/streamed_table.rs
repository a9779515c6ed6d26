//! Which relation of the stream is the outbox table.

use crate::postgres::{TableName, pgoutput::Relation};

/// The outbox table as the stream names it. It is known by its OID and by its name: a table that is renamed under way
/// keeps the one, a table that is made anew keeps the other, and its rows count in both cases.
pub(super) struct StreamedTable {
    name: TableName,
    oid: u32,
}

impl StreamedTable {
    pub(super) fn new(name: TableName, oid: u32) -> Self {
        Self { name, oid }
    }

    /// Whether rows of this relation are outbox rows.
    pub(super) fn is(&self, relation_oid: u32) -> bool {
        self.oid == relation_oid
    }

    /// Takes in the description of a relation; whether it is the outbox table.
    pub(super) fn recognise(&mut self, relation: &Relation) -> bool {
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
        relation.oid == self.oid
    }
}
