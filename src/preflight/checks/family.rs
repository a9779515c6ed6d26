//! Checks of the outbox table's child tables: all rows are published, and rows do not move between partitions.

use tokio_postgres::types::Type;

use crate::{
    message::ColumnNames,
    postgres::{
        SourceDatabase,
        outbox_table::{ColumnFacts, TableFacts},
    },
    preflight::facts::{Facts, family::Family},
};
use diagnostics::check::Check;

/// Types of points in time.
const TIMES: [Type; 3] = [Type::DATE, Type::TIMESTAMP, Type::TIMESTAMPTZ];

/// Warns of child tables whose rows are never published.
pub(super) fn unpublished(facts: &Facts) -> Option<Check> {
    let unpublished = facts.family.unpublished.as_ref()?;
    Some(Check::warning("child tables", unpublished.to_string(), unpublished.cure()))
}

/// Warns of rows that may move to another partition. The stream has a move as a DELETE and an INSERT.
pub(super) fn moves(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts) -> Option<Check> {
    const NAME: &str = "partitions";
    let Family { partition_keys, filled_defaults, .. } = &facts.family;
    let table = facts.table.as_ref().filter(|_| !partition_keys.is_empty())?;
    let keys = || partition_keys.iter().filter_map(|key| table.column(key));
    let changing: Vec<&str> =
        keys().filter(|key| !stays(key, columns)).map(|key| key.name.as_str()).collect();
    let quoted = database.table.quoted();
    if !changing.is_empty() {
        return Some(Check::warning(
            NAME,
            format!(
                "{quoted} is partitioned by {}: an UPDATE that moves a row to another partition publishes the row again, at a new \
                 position and after later events",
                changing.join(", ")
            ),
            format!(
                "partition by a column that never changes, such as {}; ignore this if no statement ever changes {}",
                proposal(columns, table),
                changing.join(", ")
            ),
        ));
    }
    if !filled_defaults.is_empty() {
        return Some(Check::warning(
            NAME,
            format!(
                "the default partition {} has rows: moving them to other partitions publishes them again",
                filled_defaults.join(", ")
            ),
            "create partitions ahead of time (premake of pg_partman); before you move rows, run in that session: SELECT \
             pg_replication_origin_session_setup('outboxd_moved'); see docs/configure/table.md",
        ));
    }
    let keys: Vec<&str> = keys().map(|key| key.name.as_str()).collect();
    Some(Check::passed(NAME, format!("{quoted} is partitioned by {}", keys.join(", "))))
}

/// Tells whether a column of an outbox row keeps its value. The primary key is no proof, as it must contain the partition key.
fn stays(column: &ColumnFacts, columns: &ColumnNames) -> bool {
    let ColumnNames { id, aggregate_type, aggregate_id, event_type, sequence, created_at, .. } = columns;
    let parts_of_event = [id, aggregate_type, aggregate_id, event_type];
    let is_time = TIMES.iter().any(|time| time.oid() == column.base_type_oid)
        && !column.nullable
        && column.default.is_some();
    parts_of_event.contains(&&column.name)
        || [sequence.name(), created_at.name()].contains(&Some(&*column.name))
        || column.sequence_cache.is_some()
        || is_time
}

fn proposal<'a>(columns: &'a ColumnNames, table: &TableFacts) -> &'a str {
    columns.created_at.name().filter(|name| table.column(name).is_some()).unwrap_or(&columns.id)
}
