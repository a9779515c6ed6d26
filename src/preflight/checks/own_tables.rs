//! Checks of outboxd's own tables.

use super::PARKED;
use crate::{
    parking::parked_table,
    postgres::{SourceDatabase, own_table::OwnTableFacts},
    preflight::facts::{Facts, left_behind::LeftBehind},
    slot::record,
};
use diagnostics::check::{Check, Finding, Problem};

/// Check of the table of slot records. A record in another schema is reported first, because a new record would hide a gap.
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

/// Check of the table of parked rows, if a policy parks; and in any case of rows parked in another schema, which is a warning, because
/// messages are published all the same.
pub(super) fn parked(database: &SourceDatabase, facts: &Facts) -> Option<Check> {
    let left = facts.left_behind.iter().find(|found| !found.is_record());
    let left = left.map(|found| found.problem(database, facts.parked, &facts.server.role));
    let own = database.parks.then(|| own_parked(database, facts));
    match left {
        // A failure, because the table is needed, and moving the rows creates it.
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

/// One of outboxd's own tables, with the statements by which another role may create it.
struct OwnTable {
    check: &'static str,
    table: &'static str,
    create: String,
    grant: String,
    facts: OwnTableFacts,
}

/// Check of one of outboxd's own tables. If the outbox table's schema is missing, only the outbox table's check fails.
fn own_table(database: &SourceDatabase, facts: &Facts, own: &OwnTable) -> Check {
    let &OwnTable { check, table, ref create, ref grant, facts: ref own_facts } = own;
    let OwnTableFacts { has_schema, exists, may_use, may_create, .. } = own_facts;
    let role = &facts.server.role;
    let may_create = *may_create || !has_schema && facts.server.may_create;
    let schema = own_facts.schema_sql(&database.schema, role);
    match (*exists, database.create) {
        (true, _) if *may_use => Check::passed(check, format!("table {table} exists")),
        (true, _) => Check::failed(
            check,
            format!("role {role} may not read and write table {table}"),
            format!("{schema}{grant};"),
        ),
        (false, true) if may_create || facts.table.is_none() => {
            Check::passed(check, format!("table {table} will be created"))
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
