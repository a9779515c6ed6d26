//! The checks whether a database is ready for `run`: a pure function from facts to checks, each with its cure. `run` stops on the
//! first that failed; `check` prints them all.
//!
//! Knows what outboxd needs of PostgreSQL, and the statement that mends what is missing. Reads nothing itself.

mod cleanup;
mod family;
mod foreign_code;
mod own_tables;
mod publication;
mod recorded_table;
mod sent;
mod server;
mod slot;
mod synchronous;
mod table;

use publication::Missing;

use super::facts::Facts;
use crate::{message::ColumnNames, postgres::SourceDatabase, slot::usage::SlotUse};
use diagnostics::{
    check::{Check, Problem},
    remedy::Mender,
};

/// Name of the check of the slot itself; whether it is the one that was there before is another question
/// ([`continuity`](crate::slot::continuity)).
pub const SLOT: &str = "slot";

/// Name of the check of the publication; what may have happened to it in between is part of that other question.
pub const PUBLICATION: &str = "publication";

/// Name of the check that the slot's record belongs to the outbox table.
pub(crate) const RECORDED_TABLE: &str = "table of the slot";

/// Name of the check that the server is no standby.
const PRIMARY: &str = "primary";

/// Name of the check of parked rows and their table.
pub const PARKED: &str = "parked messages";

/// Everything that `run` needs of the database, in the order in which it would miss it.
pub fn checks(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts) -> Vec<Check> {
    let there = facts.slot(&database.slot).is_some();
    all(database, columns, facts, if there { Missing::Gap } else { Missing::Made })
}

/// The problem of a column of the table that is not in the stream; `None` if it is, or if there is no such column.
pub(crate) fn unsent(
    database: &SourceDatabase,
    columns: &ColumnNames,
    name: &str,
    facts: &Facts,
) -> Option<Problem> {
    let column = facts.table.as_ref()?.column(name)?;
    let there = facts.slots.iter().any(|slot| slot.name == database.slot);
    sent::problem(database, columns, column, facts, if there { Missing::Gap } else { Missing::Made })
}

/// Refusal of a slot that somebody else has: another database, or a program that is no outboxd. `None` when the slot is free, or
/// another instance has it. The temporary slot counts as long as the slot has to be `made`.
pub(crate) fn slot_refusal(database: &SourceDatabase, uses: &[SlotUse], made: bool) -> Option<Check> {
    slot::refusal(database, uses, made)
}

/// The same of what `recover` needs, which makes the publication whole and the slot anew.
pub(crate) fn recovery_checks(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts) -> Vec<Check> {
    all(database, columns, facts, Missing::Mended)
}

/// The mender of what failed: a person, as soon as one of the failures takes one. What a standby lacks, such as the slot, it may have once
/// it is promoted.
pub fn mender(checks: &[Check]) -> Mender {
    let failures = || checks.iter().filter_map(|check| Some((&*check.name, check.failure()?)));
    let is_standby = failures().any(|(name, _)| name == PRIMARY);
    let takes_person = failures().any(|(_, problem)| problem.mender == Mender::Person);
    if takes_person && !is_standby { Mender::Person } else { Mender::Time }
}

fn all(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts, missing: Missing) -> Vec<Check> {
    let slot = facts.slot(&database.slot);
    let to_be_made = slot.is_none() || missing == Missing::Mended;
    // Publishing rows of the table takes a temporary slot beside the permanent one, which goes before it is made anew.
    let slots_needed = match (slot, missing) {
        (None, _) if database.rows.skip_backlog && missing != Missing::Mended => 1,
        (None, _) => 2,
        (Some(_), Missing::Mended) => 1,
        (Some(_), _) => 0,
    };
    let writes = to_be_made || !facts.records.exists;
    let mut checks = server::checks(&facts.server, slots_needed, writes);
    checks.push(synchronous::check(&facts.server));
    match recorded_table::check(database, facts) {
        // A mistake in the file, so nothing else about that table matters.
        Some(other_table) => checks.push(other_table),
        None => checks.extend(of_table(database, columns, facts, missing)),
    }
    checks.push(match (slot::refusal(database, &facts.slot_uses, to_be_made), slot) {
        (Some(refusal), _) => refusal,
        (None, Some(slot)) => slot::existing(slot, &facts.slot_uses),
        (None, None) => slot::missing(database, &facts.slot_uses),
    });
    checks.extend(slot::failover(database, slot, &facts.server));
    checks.extend(slot.is_none().then(|| slot::open_transactions(&facts.open_transactions)));
    checks.push(slot::idle(&database.slot, &facts.slots));
    checks
}

/// The outbox table, how it is published, and the tables beside it.
fn of_table(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts, missing: Missing) -> Vec<Check> {
    let mut checks = match &facts.table {
        None => vec![Check::failed(
            "table",
            format!("{} does not exist in database {}", database.table.quoted(), facts.server.database),
            "`outboxd schema` prints the statement that makes it; or set outbox.table",
        )],
        Some(table) => table::checks(database, columns, table, facts, missing),
    };
    checks.extend(family::unpublished(facts));
    checks.extend(family::moves(database, columns, facts));
    checks.extend(publication::check(database, facts, missing));
    checks.extend(cleanup::check(database, columns, facts));
    checks.extend(foreign_code::check(database, facts));
    checks.push(own_tables::records(database, facts));
    checks.extend(own_tables::parked(database, facts));
    checks
}

#[cfg(test)]
mod tests;
