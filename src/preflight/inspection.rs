//! Looks at everything that `run` needs of a database, finds every problem in one go, and changes nothing.
//!
//! [`checks`] judges what the catalog says; added here is whether the catalog can be reached at all, whether the
//! server gives us a replication connection, whether the slot is the one that was there before, and whether the templates
//! find their columns.

use super::{checks, condition::Doubt, facts::Facts};
use crate::{
    backfill::snapshot::{self, SnapshotError},
    message::{Column, ColumnNames, Mapping, MissingColumn},
    postgres::{
        RowRules, SourceDatabase,
        outbox_table::{TableFacts, TableKind},
        sql_text::identifier,
        sqlstate::INSUFFICIENT_PRIVILEGE,
        statement::CatalogError,
    },
    slot::{
        continuity::{Continuity, SlotHistory},
        history::SlotHistoryError,
        record::{self, SlotRecord},
    },
};
use diagnostics::chain;
use diagnostics::check::{Check, Finding, Problem};
use pg_replication::{ConnectError, Hosting, ReplicationError, SystemIdentity};
use tokio_postgres::Client;

const CONNECTION: &str = "connection";
const REPLICATION: &str = "replication connection";

/// Findings about one source.
pub struct Inspection {
    /// Everything that was looked at.
    pub checks: Vec<Check>,
    /// Set when ids of messages are numbers of the table, see [`Mapping::ids_are_numbers`]; `None` when that could not be seen.
    pub ids_are_numbers: Option<bool>,
    /// System identifier of the server, if nobody uses the slot there.
    pub idle_on: Option<String>,
}

/// Connects in both ways and closes both connections. A database that cannot be reached gives one check, which failed.
pub async fn inspect(database: &SourceDatabase, mapping: &Mapping, application_name: &str) -> Inspection {
    let (mut ids_are_numbers, mut idle_on) = (None, None);
    let mut hosting = Hosting::own();
    let (mut is_other_table, mut is_used) = (false, false);
    let client = match database.endpoint.connect_sql(application_name).await {
        Ok(client) => client,
        Err(error) => {
            return Inspection { checks: vec![unreachable(CONNECTION, &error)], ids_are_numbers, idle_on };
        }
    };
    let mut checks = vec![Check::passed(CONNECTION, as_role(database))];
    match Facts::read(&client, database).await {
        Ok(facts) => {
            hosting = facts.server.hosting;
            is_other_table = facts.recorded_table.is_some();
            // Also the temporary slot, which an instance has while it publishes a backlog.
            is_used = facts.slot_uses.iter().any(|one| one.active_pid.is_some());
            checks.extend(checks::checks(database, &mapping.columns, &facts));
            if let Some(table) = &facts.table {
                let columns = table.outbox_columns();
                checks.push(templates(database, mapping, &facts, &columns));
                ids_are_numbers = Some(mapping.ids_are_numbers(&columns));
                checks.extend(rules(&client, database, table, facts.doubt.as_ref(), &mapping.columns).await);
            }
        }
        Err(error) => checks.push(unreadable(&error)),
    }
    let connection = database.connect_replication(application_name).await;
    let history = match connection {
        Ok(mut connection) => SlotHistory::gather(&client, &mut connection, database, None).await,
        Err(error) => Err(error.into()),
    };
    match history {
        Ok(history) => {
            let SystemIdentity { system_id, timeline, xlogpos, .. } = &history.server;
            let server = format!("system {system_id}, timeline {timeline}, WAL at {xlogpos}");
            checks.push(Check::passed(REPLICATION, server));
            is_used |= history.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some());
            idle_on = (!is_used).then(|| system_id.clone());
            // Of another table than the record's, the record tells nothing.
            if !is_other_table {
                checks.push(continuity(mapping, &database.slot, &history));
                checks.extend(database.cleanup.and_then(|_| unpublished_rows(database, &history)));
            }
        }
        Err(SlotHistoryError::Replication(ReplicationError::Connect(error))) => {
            checks.push(unreachable(REPLICATION, &error.hosted(&database.endpoint, hosting)));
        }
        Err(error) => {
            checks.push(Check::failed(REPLICATION, chain(&error), "see the server's log"));
        }
    }
    Inspection { checks, ids_are_numbers, idle_on }
}

/// Check that the ids of a source's messages tell them from those of the `others`, sources that have numbers for ids, too.
pub(crate) fn message_ids(ids_are_numbers: bool, others: &[&str]) -> Check {
    const NAME: &str = "message ids";
    match (ids_are_numbers, others) {
        (false, _) => Check::passed(NAME, "are not mere numbers of the table"),
        (true, []) => Check::passed(
            NAME,
            "are numbers, unique in this table only: an inbox that takes messages of another outbox, too, needs outbox-source in \
             its key",
        ),
        (true, others) => Check::warning(
            NAME,
            format!(
                "are numbers, as those of {}: both send the same ones, and an inbox without outbox-source in its key takes the \
                 second message for a copy of the first and drops it",
                others.join(", ")
            ),
            "consumers of both need (source, message_id) as the key (`outboxd schema` prints it); or set message.id = \
             \"{source}-{id}\", which changes the ids of copies that are sent again",
        ),
    }
}

/// Check that the server takes the condition and the zone of the configuration.
async fn rules(
    client: &Client,
    database: &SourceDatabase,
    table: &TableFacts,
    doubt: Option<&Doubt>,
    columns: &ColumnNames,
) -> Option<Check> {
    const NAME: &str = "selection of rows";
    let RowRules { unpublished, created_at_zone, .. } = &database.rows;
    let given = [
        unpublished.as_ref().map(|_| "outbox.unpublished"),
        created_at_zone.as_ref().map(|_| "outbox.created_at_zone"),
    ];
    let given = given.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    // Of a view in the table's place, which its own check refuses, planning calls functions.
    if given.is_empty() || table.kind == TableKind::Other {
        return None;
    }
    Some(match snapshot::try_rules(client, database, table, columns).await {
        Ok(()) => match doubt {
            Some(doubt) => {
                let off =
                    if database.cleanup.is_some() { "; clean-up removes nothing until then" } else { "" };
                Check::warning(NAME, format!("{doubt}{off}"), doubt.cure())
            }
            None => Check::passed(NAME, format!("the server takes {given}")),
        },
        // A right to read, which nothing needs while no row of the table is read.
        Err(SnapshotError::Rules(cause)) if cause.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) => {
            let check = if database.rows.skip_backlog { Check::warning } else { Check::failed };
            let what = format!("{given} cannot be tried: {cause}");
            let role = identifier(database.endpoint.user());
            check(NAME, what, format!("GRANT SELECT ON {} TO {role};", database.table.quoted()))
        }
        Err(error) => Check::failed(NAME, chain(&error), snapshot::RULES_CURE),
    })
}

fn as_role(database: &SourceDatabase) -> String {
    let role = format!("as role {}", identifier(database.endpoint.user()));
    match database.endpoint.file_names() {
        None => role,
        Some(files) => format!("{role}; read for every connection: {files}"),
    }
}

/// Check that the slot is the one that was there before.
fn continuity(mapping: &Mapping, slot: &str, history: &SlotHistory) -> Check {
    const NAME: &str = "continuity";
    match history.judge(None) {
        Ok(Continuity::First) => Check::passed(NAME, "a first slot: nothing is recorded of an earlier one"),
        Ok(Continuity::Adopted) => Check::passed(NAME, "nothing is recorded of the slot yet"),
        Ok(Continuity::Same) => Check::passed(NAME, "the slot is the one that was there before"),
        Err(gap) => Check::failed(
            NAME,
            format!("{slot} {gap}"),
            format!(
                "`outboxd recover --source {}` makes a new slot and publishes the rows that the table still has",
                mapping.source
            ),
        ),
    }
}

/// Check that clean-up may assume that what is in the table is published.
fn unpublished_rows(database: &SourceDatabase, history: &SlotHistory) -> Option<Check> {
    const NAME: &str = "unpublished rows";
    let record = history.record.as_ref().filter(|record| !record.is_torn_down());
    let altered = record.is_some_and(|record| {
        record.published_by.zip(history.publishing.by()).is_some_and(|(before, now)| before != now)
    });
    let why = match (record, &history.slot) {
        (None, Some(_)) => {
            "outboxd has not made the slot, so rows that are in the table when it begins may be older than it"
        }
        (None, None) => return None,
        (Some(SlotRecord { unproven: Some(why), .. }), _) => why,
        (Some(_), _) if altered => {
            "the publication was altered, and may have published no inserts for a time"
        }
        (Some(_), _) => return None,
    };
    Some(Check::warning(
        NAME,
        format!("{why}; clean-up removes nothing before somebody has looked after them"),
        format!(
            "when you have, and `run` has begun: {}; then restart outboxd",
            record::declare_published_sql(database)
        ),
    ))
}

fn unreadable(error: &CatalogError) -> Check {
    Check::failed(
        "catalog",
        chain(error),
        "outboxd needs PostgreSQL 13 or later, and reads the system catalogs",
    )
}

fn unreachable(name: &'static str, error: &ConnectError) -> Check {
    Check { name: name.into(), finding: Finding::Failed(Problem::new(chain(error), (*error.remedy).clone())) }
}

/// Check that the columns that templates name are there. The columns of `outbox.columns` have checks of their own.
fn templates(database: &SourceDatabase, mapping: &Mapping, facts: &Facts, columns: &[Column]) -> Check {
    const NAME: &str = "templates";
    let missing = match mapping.resolve(columns) {
        Ok(_) => Vec::new(),
        Err(error) => error.missing,
    };
    let of_templates = |missing: &&MissingColumn| !missing.wanted_by.starts_with("outbox.columns.");
    let unsent = missing.iter().filter(of_templates).find_map(|missing| {
        let MissingColumn { name, wanted_by, .. } = missing;
        Some((checks::unsent(database, &mapping.columns, name, facts)?, wanted_by))
    });
    if let Some((Problem { what, cure, .. }, wanted_by)) = unsent {
        return Check::failed(NAME, format!("{what} ({wanted_by} wants it)"), cure);
    }
    let missing: Vec<String> = missing.iter().filter(of_templates).map(MissingColumn::to_string).collect();
    if missing.is_empty() {
        return Check::passed(NAME, "their columns are there");
    }
    Check::failed(
        NAME,
        format!("the table lacks {}", missing.join(", ")),
        "correct the templates below message, or add the column",
    )
}
