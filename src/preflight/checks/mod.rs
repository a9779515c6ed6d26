//! The checks whether a database is ready for `run`: a pure function from facts to checks, each with its cure. A failed check stops
//! `run`; `check` prints them all.
//!
//! Knows the requirements of outboxd on PostgreSQL, and the statements that meet them. Reads nothing itself.

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
use crate::{message::ColumnNames, postgres::SourceDatabase, slot::facts::SlotFacts};
use diagnostics::{
    check::{Check, Problem},
    remedy::Mender,
};

/// Name of the check of the present slot. [`continuity`](crate::slot::continuity) judges whether it is the same slot as before.
pub const SLOT: &str = "slot";

/// Name of the check of the present publication. [`continuity`](crate::slot::continuity) judges its past.
pub const PUBLICATION: &str = "publication";

/// Name of the check that the slot's record belongs to the outbox table.
pub(crate) const RECORDED_TABLE: &str = "table of the slot";

/// Name of the check that the server is not a standby.
const PRIMARY: &str = "primary";

/// Name of the check that the zone of `created_at` is known.
pub(super) const TIME_ZONE: &str = "time zone";

/// Name of the check of parked rows and their table.
pub const PARKED: &str = "parked messages";

/// Checks everything that `run` needs of the database, in the order in which `run` needs it.
pub fn checks(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts) -> Vec<Check> {
    let there = facts.slot(&database.slot).is_some();
    all(database, columns, facts, if there { Missing::Gap } else { Missing::Made })
}

/// The problem of a table's column that the publication does not send; `None` if it is sent or does not exist.
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

/// Refusal of a slot that belongs to another database, or to a program that is not outboxd. `None` if the slot is free or another
/// instance has it. The temporary slot counts, too, if the slot has to be created (`made`).
pub(crate) fn slot_refusal(database: &SourceDatabase, slots: &[SlotFacts], made: bool) -> Option<Check> {
    slot::refusal(database, slots, made)
}

/// Checks everything that `recover` needs, which repairs the publication and creates the slot again.
pub(crate) fn recovery_checks(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts) -> Vec<Check> {
    all(database, columns, facts, Missing::Mended)
}

/// The mender of the failed checks: a person if one of the failures needs one. On a standby time may mend all, because a slot that it
/// lacks may exist after its promotion.
pub fn mender(checks: &[Check]) -> Mender {
    let failures = || checks.iter().filter_map(|check| Some((&*check.name, check.failure()?)));
    let is_standby = failures().any(|(name, _)| name == PRIMARY);
    let takes_person = failures().any(|(_, problem)| problem.mender == Mender::Person);
    if takes_person && !is_standby { Mender::Person } else { Mender::Time }
}

fn all(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts, missing: Missing) -> Vec<Check> {
    let slot = facts.slot(&database.slot);
    let to_be_made = slot.is_none() || missing == Missing::Mended;
    // Publishing rows of the table needs a temporary slot beside the permanent one. `recover` drops the permanent one first.
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
        // A mistake in the configuration: other checks of that table would mislead.
        Some(other_table) => checks.push(other_table),
        None => checks.extend(of_table(database, columns, facts, missing)),
    }
    checks.push(match (slot::refusal(database, &facts.slots, to_be_made), slot) {
        (Some(refusal), _) => refusal,
        (None, Some(slot)) => slot::existing(slot),
        (None, None) => slot::missing(database, &facts.slots),
    });
    checks.extend(slot::failover(database, slot, &facts.server));
    checks.extend(slot.is_none().then(|| slot::open_transactions(&facts.open_transactions)));
    checks.push(slot::idle(&database.slot, &facts.slots));
    checks
}

/// Checks of the outbox table, its publication, and the tables beside it.
fn of_table(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts, missing: Missing) -> Vec<Check> {
    let mut checks = match &facts.table {
        None => vec![Check::failed(
            "table",
            format!("{} does not exist in database {}", database.table.quoted(), facts.server.database),
            "set outbox.table to the name of your table, or create one (`outboxd schema` prints a statement)",
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
