//! Inspects a database for `check`: finds every problem at once and changes nothing.
//!
//! [`checks`] judges the catalog. This file adds the checks that need more: the connections, the continuity of the slot, and the
//! columns of the templates.

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
use tokio_postgres::{Client, types::Type};

const CONNECTION: &str = "connection";
const REPLICATION: &str = "replication connection";

/// Result of the inspection of one source.
pub struct Inspection {
    /// Checks in the order of the inspection.
    pub checks: Vec<Check>,
    /// Set if the ids of messages are numbers of the table, see [`Mapping::ids_are_numbers`]; `None` if that is unknown.
    pub ids_are_numbers: Option<bool>,
    /// System identifier of the server, if no client uses the slot.
    pub idle_on: Option<String>,
}

/// Inspects a database over an SQL and a replication connection, and closes both. A database that cannot be reached gives one failed
/// check.
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
            // The temporary slot counts, too: an instance holds it while it publishes a backlog.
            is_used = facts.slots.iter().any(|one| one.is_of(&database.slot) && one.active_pid.is_some());
            checks.extend(checks::checks(database, &mapping.columns, &facts));
            if let Some(table) = &facts.table {
                let columns = table.outbox_columns();
                checks.push(templates(database, mapping, &facts, &columns));
                ids_are_numbers = Some(mapping.ids_are_numbers(&columns));
                checks.extend(rules(&client, database, table, facts.doubt.as_ref(), &mapping.columns).await);
                let of_zone =
                    |check: &&mut Check| check.name == checks::TIME_ZONE && check.as_warning().is_none();
                if let Some(zone) = checks.iter_mut().find(of_zone)
                    && let Some(warning) = unnamed_zone(&client, database).await
                {
                    *zone = warning;
                }
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
            // A record of another table tells nothing about this one.
            if !is_other_table {
                checks.push(continuity(mapping, &database.slot, &history));
                checks.extend(database.cleanup.and_then(|_| unpublished_rows(database, mapping, &history)));
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

/// Checks that the ids of a source's messages differ from those of `others`, which are sources with numbers for ids, too.
pub(crate) fn message_ids(ids_are_numbers: bool, others: &[&str]) -> Check {
    const NAME: &str = "message ids";
    match (ids_are_numbers, others) {
        (false, _) => Check::passed(NAME, "are not plain numbers of the table"),
        (true, []) => Check::passed(
            NAME,
            "are numbers, unique in this table only: an inbox that also receives messages of another outbox needs the header \
             outbox-source in its key",
        ),
        (true, others) => Check::warning(
            NAME,
            format!(
                "are numbers, like those of {}: both sources send the same ids. An inbox without outbox-source in its key takes the \
                 second message for a duplicate and drops it",
                others.join(", ")
            ),
            "use (source, message_id) as the key in consumers of both (`outboxd schema` prints it); or set message.id = \
             \"{source}-{id}\", which also changes the ids of duplicates sent after the change",
        ),
    }
}

/// Checks that the server accepts the configured condition and zone.
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
    // Planning a query of a view would call its functions. The check of the table refuses a view.
    if given.is_empty() || table.kind == TableKind::Other {
        return None;
    }
    Some(match snapshot::try_rules(client, database, table, columns).await {
        Ok(()) => match doubt {
            Some(doubt) => {
                let off =
                    if database.cleanup.is_some() { "; clean-up removes no rows until then" } else { "" };
                Check::warning(NAME, format!("{doubt}{off}"), doubt.cure())
            }
            None => Check::passed(NAME, format!("PostgreSQL accepts {given}")),
        },
        // The right to read is not needed while no row of the table is read.
        Err(SnapshotError::Rules(cause)) if cause.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) => {
            let check = if database.rows.skip_backlog { Check::warning } else { Check::failed };
            let what = format!("{given} cannot be verified: {cause}");
            let role = identifier(database.endpoint.user());
            check(NAME, what, format!("GRANT SELECT ON {} TO {role};", database.table.quoted()))
        }
        Err(error) => Check::failed(NAME, chain(&error), snapshot::RULES_CURE),
    })
}

/// Warning about a zone that is not in `pg_timezone_names`, such as `UTC+2`, which PostgreSQL reads as POSIX does: west of Greenwich.
/// `None` also for a zone that the server refuses, which [`rules`] reports.
async fn unnamed_zone(client: &Client, database: &SourceDatabase) -> Option<Check> {
    let zone = database.rows.created_at_zone.as_ref()?;
    let row = client
        .query_typed_one(
            "SELECT EXISTS (SELECT FROM pg_timezone_names WHERE lower(name) = lower($1)),
                    (EXTRACT(EPOCH FROM now() AT TIME ZONE $1) - EXTRACT(EPOCH FROM now() AT TIME ZONE 'UTC'))::int4",
            &[(zone, Type::TEXT)],
        )
        .await
        .ok()?;
    let (is_named, east): (bool, i32) = (row.get(0), row.get(1));
    if is_named {
        return None;
    }
    let (sign, minutes) = (if east < 0 { '-' } else { '+' }, east.unsigned_abs() / 60);
    let offset = format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60);
    Some(Check::warning(
        checks::TIME_ZONE,
        format!(
            "outbox.created_at_zone {zone} is not in pg_timezone_names: PostgreSQL reads it as an abbreviation or a POSIX zone, now \
             UTC{offset}. If the rows have times of another zone, --since and clean-up select the wrong rows"
        ),
        "set outbox.created_at_zone to a name of pg_timezone_names, for instance \"Europe/Helsinki\", or \"Etc/GMT-2\" for two hours \
         east of Greenwich",
    ))
}

fn as_role(database: &SourceDatabase) -> String {
    let role = format!("as role {}", identifier(database.endpoint.user()));
    match database.endpoint.file_names() {
        None => role,
        Some(files) => format!("{role}; files read for every connection: {files}"),
    }
}

/// Checks that the slot is still the same slot as before.
fn continuity(mapping: &Mapping, slot: &str, history: &SlotHistory) -> Check {
    const NAME: &str = "continuity";
    match history.judge(None) {
        Ok(Continuity::First) => {
            Check::passed(NAME, "no slot and no record of an earlier one: a first start")
        }
        Ok(Continuity::Adopted) => Check::passed(NAME, "the slot has no record yet"),
        Ok(Continuity::Same) => Check::passed(NAME, "the slot is the same as before"),
        Err(gap) => Check::failed(
            NAME,
            format!("slot {slot} {gap}"),
            format!(
                "`outboxd recover --source {}` creates a new slot and publishes the rows that are still in the table",
                mapping.source
            ),
        ),
    }
}

/// Checks that clean-up may assume that every row of the table is published.
fn unpublished_rows(database: &SourceDatabase, mapping: &Mapping, history: &SlotHistory) -> Option<Check> {
    const NAME: &str = "unpublished rows";
    let record = history.record.as_ref().filter(|record| !record.is_torn_down());
    let altered = record.is_some_and(|record| {
        record.published_by.zip(history.publishing.by()).is_some_and(|(before, now)| before != now)
    });
    let why = match (record, &history.slot) {
        (None, Some(_)) => {
            "outboxd has not created the slot, so rows of the table may be older than the slot and unpublished"
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
        format!("{why}; clean-up removes no rows until you declare that all are published"),
        format!(
            "publish the unpublished rows (`outboxd replay --source {} --since TIME`) or delete them; then, while `run` is streaming: {}; \
             then restart outboxd",
            mapping.source,
            record::declare_published_sql(database)
        ),
    ))
}

fn unreadable(error: &CatalogError) -> Check {
    Check::failed(
        "catalog",
        chain(error),
        "outboxd reads the system catalogs and needs PostgreSQL 13 or later",
    )
}

fn unreachable(name: &'static str, error: &ConnectError) -> Check {
    Check { name: name.into(), finding: Finding::Failed(Problem::new(chain(error), (*error.remedy).clone())) }
}

/// Checks that the table has the columns of the templates. The columns of `outbox.columns` have checks of their own.
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
        return Check::failed(NAME, format!("{what} ({wanted_by} uses it)"), cure);
    }
    let missing: Vec<String> = missing.iter().filter(of_templates).map(MissingColumn::to_string).collect();
    if missing.is_empty() {
        return Check::passed(NAME, "the table has their columns");
    }
    Check::failed(
        NAME,
        format!("the table lacks {}", missing.join(", ")),
        "correct the templates in the section message, or add the column",
    )
}
