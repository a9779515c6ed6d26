//! The check that the publication sends a column that messages need. A generated column, or one that a column list leaves out, is in
//! the table but not in the stream.

use super::publication::{Missing, altered_by_hand};
use crate::{
    message::ColumnNames,
    postgres::{
        SourceDatabase,
        outbox_table::{ColumnFacts, Generated},
        sql_text::identifier,
    },
    preflight::facts::Facts,
    slot::publication::{PublicationFacts, add_table_sql, create_sql, drop_table_sql},
};
use diagnostics::{check::Problem, remedy::Remedy};

/// First version that sends stored generated columns.
const SENDS_GENERATED: i32 = 18;

/// The problem of a column that is not sent; `None` if it is sent.
pub(super) fn problem(
    database: &SourceDatabase,
    columns: &ColumnNames,
    column: &ColumnFacts,
    facts: &Facts,
    missing: Missing,
) -> Option<Problem> {
    if column.sent {
        return None;
    }
    let name = &column.name;
    let version = facts.server.version / 10_000;
    let publication = identifier(&database.publication);
    let table = database.table.quoted();
    let ordinary = format!(
        "turn it into an ordinary column, which the application fills: ALTER TABLE {table} ALTER COLUMN {} DROP EXPRESSION;",
        identifier(name)
    );
    let problem = |what: String, cure: String| Some(Problem::new(what, Remedy::by_person(cure)));
    match column.generated {
        Some(_) if version < SENDS_GENERATED => problem(
            format!("column {name} is a generated column, which PostgreSQL {version} does not send"),
            format!("{ordinary} PostgreSQL {SENDS_GENERATED} can send a stored one"),
        ),
        Some(Generated::Virtual) => problem(
            format!("column {name} is a virtual generated column, which no version of PostgreSQL sends"),
            "turn it into a stored generated column, or into an ordinary column that the application fills"
                .to_owned(),
        ),
        Some(Generated::Stored) if facts.publication.is_none() => {
            let create = create_sql(&database.publication, &database.table, facts.table.as_ref()?.kind);
            let create = create.replace("'insert'", "'insert', publish_generated_columns = stored");
            problem(
                format!(
                    "column {name} is a generated column, and a publication created by outboxd does not send these"
                ),
                format!("create the publication yourself, as the table's owner: {create};"),
            )
        }
        Some(Generated::Stored) if !has_column_list(facts) => problem(
            format!("column {name} is a generated column, and publication {publication} does not send these"),
            altered_by_hand(
                missing,
                format!("ALTER PUBLICATION {publication} SET (publish_generated_columns = stored);"),
            ),
        ),
        Some(Generated::Stored) | None => problem(
            format!("publication {publication} leaves out column {name}, which messages need"),
            altered_by_hand(missing, with_columns(database, columns, column, facts)?),
        ),
    }
}

/// Tells whether the publication has a column list for the table. With a list, even of all ordinary columns,
/// `publish_generated_columns` has no effect.
fn has_column_list(facts: &Facts) -> bool {
    facts.publication.as_ref().is_some_and(|publication| publication.lists_columns)
}

/// The statements that put all needed columns into the column list, and this one.
fn with_columns(
    database: &SourceDatabase,
    names: &ColumnNames,
    wanted: &ColumnFacts,
    facts: &Facts,
) -> Option<String> {
    let ColumnNames { id, aggregate_type, aggregate_id, event_type, payload, .. } = names;
    let needed = [id, aggregate_type, aggregate_id, event_type, payload, &wanted.name];
    let table = facts.table.as_ref()?;
    let list = table.columns.iter().filter(|column| column.sent || needed.contains(&&column.name));
    let list = list.map(|column| identifier(&column.name)).collect::<Vec<_>>().join(", ");
    let filter = facts.publication.as_ref().and_then(|PublicationFacts { row_filter, .. }| {
        row_filter.as_ref().map(|filter| format!(" WHERE ({filter})"))
    });
    Some(format!(
        "BEGIN; {}; {} ({list}){}; COMMIT;",
        drop_table_sql(&database.publication, &database.table, table.kind),
        add_table_sql(&database.publication, &database.table, table.kind),
        filter.unwrap_or_default()
    ))
}
