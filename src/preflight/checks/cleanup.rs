//! Check that clean-up can remove rows.

use crate::{
    cleanup::{self, CleanupError},
    message::ColumnNames,
    postgres::{Cleanup, SourceDatabase, sql_text::identifier},
    preflight::facts::Facts,
};
use diagnostics::check::Check;

/// Checks that confirmed rows can be removed. Never a failure, because messages are published all the same.
pub(super) fn check(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts) -> Option<Check> {
    const NAME: &str = "cleanup";
    let (Cleanup { retention }, table) = (database.cleanup?, facts.table.as_ref()?);
    let quoted = database.table.quoted();
    let time = cleanup::time_column(database, table, columns);
    Some(if !table.may_remove {
        let role = &facts.server.role;
        Check::warning(
            NAME,
            format!("role {role} may not remove rows of {quoted}, so clean-up removes no rows"),
            format!("{};", cleanup::grant_sql(database, columns, role)),
        )
    } else if let Err(error) = time
        && !retention.is_zero()
    {
        let (name, kind) = (columns.created_at.name().unwrap_or("created_at"), "timestamptz");
        let cure = match error {
            CleanupError::NoZone(_) => format!(
                "set outbox.created_at_zone, for instance to \"America/New_York\"; or ALTER TABLE {quoted} ALTER {} TYPE {kind} \
                 USING {} AT TIME ZONE '...';",
                identifier(name),
                identifier(name)
            ),
            _ => format!(
                "ALTER TABLE {quoted} ADD COLUMN {} {kind} NOT NULL DEFAULT clock_timestamp(); or set outbox.columns.created_at",
                identifier(name)
            ),
        };
        Check::warning(
            NAME,
            format!("clean-up removes no rows: {error}"),
            format!("{cure} or set cleanup.retention_s = 0"),
        )
    } else if let Some(why) = facts.publication.as_ref().and_then(|facts| cleanup::unpublished(Some(facts))) {
        Check::warning(
            NAME,
            format!(
                "publication {} {why}, so rows may be unpublished, and clean-up removes no rows",
                identifier(&database.publication)
            ),
            "let it publish all inserts of the table, or set cleanup.mode = \"none\"",
        )
    } else {
        let seconds = retention.as_secs();
        Check::passed(NAME, format!("confirmed rows of {quoted} are removed when they are {seconds} s old"))
    })
}
