//! The tables that outboxd writes.

use super::PARKED;
use crate::{
    parking::parked_table,
    postgres::{SourceDatabase, own_table::OwnTableFacts},
    preflight::facts::{Facts, left_behind::LeftBehind},
    slot::record,
};
use diagnostics::check::{Check, Finding, Problem};

/// The table of slot records. With the outbox table's schema missing there is no place for it, and the table's check fails.
/// A record in another schema comes first: with a new one beside it a gap would be forgotten.
pub(super) fn records(database: &SourceDatabase, facts: &Facts) -> Check {
    if facts.left_behind.iter().any(LeftBehind::is_record) {
        let all: Vec<Problem> = facts
            .left_behind
            .iter()
            .map(|found| {
                let own = if found.is_record() { facts.records } else { facts.parked };
                found.problem(database, own, &facts.server.role)
            })
            .collect();
        let what = all.first().map(|problem| problem.what.clone()).unwrap_or_default();
        let cures: Vec<String> = all.into_iter().map(|problem| problem.cure).collect();
        return Check::failed(RECORDS, what, cures.join(" "));
    }
    own_table(
        database,
        facts,
        &OwnTable {
            check: RECORDS,
            table: record::TABLE,
            create: record::create_table_sql(database),
            grant: record::grant_sql(database, &facts.server.role),
            facts: facts.records,
        },
    )
}

const RECORDS: &str = "records of slots";

/// The table of parked rows, where policy parks; and whatever policy says, rows that are parked in another schema. These keep no
/// message from being published.
pub(super) fn parked(database: &SourceDatabase, facts: &Facts) -> Option<Check> {
    let left = facts.left_behind.iter().find(|found| !found.is_record());
    let left = left.map(|found| found.problem(database, facts.parked, &facts.server.role));
    let own = database.parks.then(|| own_parked(database, facts));
    match left {
        // The table is missed, and moving them brings it.
        Some(problem) if database.parks && !facts.parked.exists => {
            Some(Check { name: PARKED.into(), finding: Finding::Failed(problem) })
        }
        Some(problem) => own
            .filter(|own| own.failure().is_some())
            .or(Some(Check { name: PARKED.into(), finding: Finding::Warning(problem) })),
        None => own,
    }
}

fn own_parked(database: &SourceDatabase, facts: &Facts) -> Check {
    own_table(
        database,
        facts,
        &OwnTable {
            check: PARKED,
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

/// With the outbox table's schema missing there is no place for a table beside it, and the outbox table's check fails. A schema of
/// its own is made.
fn own_table(database: &SourceDatabase, facts: &Facts, own: &OwnTable) -> Check {
    let &OwnTable { check, table, ref create, ref grant, facts: ref own_facts } = own;
    let OwnTableFacts { has_schema, exists, may_use, may_create, .. } = own_facts;
    let role = &facts.server.role;
    let may_create = *may_create || !has_schema && facts.server.may_create;
    let schema = own_facts.schema_sql(&database.schema, role);
    match (*exists, database.create) {
        (true, _) if *may_use => Check::passed(check, format!("{table} is there")),
        (true, _) => Check::failed(
            check,
            format!("role {role} may not read and write table {table}"),
            format!("{schema}{grant};"),
        ),
        (false, true) if may_create || facts.table.is_none() => {
            Check::passed(check, format!("{table} will be created"))
        }
        (false, true) => Check::failed(
            check,
            format!(
                "table {table} does not exist, and role {role} may not create it in schema {}",
                database.schema
            ),
            format!("{schema}{create}; {grant};"),
        ),
        (false, false) => Check::failed(
            check,
            format!("table {table} does not exist, and postgres.create is false"),
            format!("{schema}{create}; {grant};"),
        ),
    }
}
