//! The tables that outboxd writes.

use super::{
    super::{
        SourceDatabase,
        catalog::{Facts, OwnTableFacts},
        parked_table, slot_record,
    },
    Check,
};

/// The table of slot records. With the outbox table's schema missing there is no place for it, and the table's check fails.
pub(super) fn records(database: &SourceDatabase, facts: &Facts) -> Check {
    own_table(
        database,
        facts,
        &OwnTable {
            check: "records of slots",
            table: slot_record::TABLE,
            create: slot_record::create_table_sql(database),
            grant: slot_record::grant_sql(database, &facts.server.role),
            facts: facts.records,
        },
    )
}

pub(super) fn parked(database: &SourceDatabase, facts: &Facts) -> Check {
    own_table(
        database,
        facts,
        &OwnTable {
            check: "parked messages",
            table: parked_table::TABLE,
            create: parked_table::create_table_sql(database),
            grant: parked_table::grant_sql(database, &facts.server.role),
            facts: facts.parked,
        },
    )
}

/// A table that outboxd writes, and the statements that somebody else may make it with.
struct OwnTable {
    check: &'static str,
    table: &'static str,
    create: String,
    grant: String,
    facts: OwnTableFacts,
}

/// With the outbox table's schema missing there is no place for a table beside it, and the outbox table's check fails.
fn own_table(database: &SourceDatabase, facts: &Facts, own: &OwnTable) -> Check {
    let OwnTable { check, table, create, grant, facts: OwnTableFacts { exists, may_use, may_create } } = own;
    let role = &facts.server.role;
    match (*exists, database.create) {
        (true, _) if *may_use => Check::passed(check, format!("{table} is there")),
        (true, _) => {
            Check::failed(check, format!("role {role} may not read and write {table}"), format!("{grant};"))
        }
        (false, true) if *may_create || facts.table.is_none() => {
            Check::passed(check, format!("{table} will be created"))
        }
        (false, true) => Check::failed(
            check,
            format!(
                "{table} does not exist, and role {role} may not create it in schema {}",
                database.table.schema
            ),
            format!("{create}; {grant};"),
        ),
        (false, false) => Check::failed(
            check,
            format!("{table} does not exist, and postgres.create is false"),
            format!("{create}; {grant};"),
        ),
    }
}
