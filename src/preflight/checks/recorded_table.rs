//! Check that the slot's record belongs to the configured outbox table.

use super::RECORDED_TABLE;
use crate::{
    postgres::{SourceDatabase, sql_text::identifier},
    preflight::facts::Facts,
};
use diagnostics::check::Check;

/// Refuses another table with the same slot; `None` if the record belongs to the configured table.
pub(super) fn check(database: &SourceDatabase, facts: &Facts) -> Option<Check> {
    let recorded = facts.recorded_table.as_ref()?.quoted();
    let SourceDatabase { slot, publication, table, .. } = database;
    let configured = table.quoted();
    Some(Check::failed(
        RECORDED_TABLE,
        format!(
            "the record of slot {slot} belongs to table {recorded}, but outbox.table is {configured}: nothing is published, and the \
             slot still holds the rows of {recorded}"
        ),
        format!(
            "set outbox.table to {recorded}. If the change is intended: (1) with outbox.table = {recorded}, let `outboxd run` publish \
             the remaining rows; (2) run `outboxd teardown` for this source; (3) set outbox.table to {configured}, and let publication \
             {} contain only that table, or let outboxd create the publication; (4) start outboxd, which begins with the rows of \
             {configured}",
            identifier(publication)
        ),
    ))
}
