//! The table that a slot's record belongs to, if it is another than the configured one.
//!
//! The record stores which entry of a publication publishes the outbox table, and that entry names a table. A table that was
//! renamed or moved keeps its entry, so it is found as the table that it was. An entry of all tables, or of a schema, names none.

use tokio_postgres::{Client, types::Type};

use super::left_behind::LeftBehind;
use crate::{
    postgres::{
        SourceDatabase, TableName,
        own_table::{self, OwnTableFacts},
        statement::{CatalogError, failed},
    },
    slot::record,
};

/// Finds the other table; `None` if the record belongs to the configured outbox table, or names none. A record with a gap is left to
/// `recover`.
pub(crate) async fn find(
    client: &Client,
    database: &SourceDatabase,
    records: OwnTableFacts,
    left_behind: &[LeftBehind],
) -> Result<Option<TableName>, CatalogError> {
    let SourceDatabase { table: outbox, slot, .. } = database;
    let own = own_table::name(database, record::TABLE);
    let own = (records.exists && records.may_use).then_some(&own);
    let elsewhere = left_behind.iter().filter(|found| found.is_record()).map(|found| &found.place);
    for place in own.into_iter().chain(elsewhere) {
        // A publication that holds a partitioned table publishes its partitions by the same entry.
        let select = format!(
            "SELECT n.nspname::text, held.relname::text
             FROM ONLY {} record JOIN pg_publication_rel entry ON entry.oid::text = split_part(record.published_by, '.', 1)
             JOIN pg_class held ON held.oid = entry.prrelid JOIN pg_namespace n ON n.oid = held.relnamespace,
             pg_class outbox JOIN pg_namespace o ON o.oid = outbox.relnamespace
             WHERE record.slot = $1 AND record.gap IS NULL AND o.nspname = $2 AND outbox.relname = $3 AND held.oid <> outbox.oid
             AND held.oid NOT IN (SELECT relid FROM pg_partition_ancestors(outbox.oid))",
            place.quoted()
        );
        let row = client
            .query_typed_opt(
                &select,
                &[(&slot, Type::TEXT), (&outbox.schema, Type::TEXT), (&outbox.table, Type::TEXT)],
            )
            .await
            .map_err(failed("reading the table of the slot's record"))?;
        if let Some(row) = row {
            return Ok(Some(TableName { schema: row.get(0), table: row.get(1) }));
        }
    }
    Ok(None)
}
