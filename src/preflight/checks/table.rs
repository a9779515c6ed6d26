//! Checks of the outbox table: its kind, the right to read it, its columns.

use super::{TIME_ZONE, publication::Missing, sent};
use crate::{
    backfill::snapshot::{grant_select_sql, see_all_rows_sql},
    message::{ColumnNames, OptionalColumn},
    postgres::{
        RowRules, SourceDatabase,
        outbox_table::{ColumnFacts, TableFacts, TableKind},
        sql_text::identifier,
    },
    preflight::facts::{Facts, server::ServerFacts},
};
use diagnostics::check::{Check, Problem};

pub(super) fn checks(
    database: &SourceDatabase,
    columns: &ColumnNames,
    table: &TableFacts,
    facts: &Facts,
    missing: Missing,
) -> Vec<Check> {
    let quoted = database.table.quoted();
    let mut checks = vec![match table.kind {
        TableKind::Other => {
            Check::failed("table", format!("{quoted} is not a table"), "set outbox.table to a table")
        }
        _ if !table.logged => Check::failed(
            "table",
            format!("{quoted} is unlogged: its rows are not in WAL"),
            format!("ALTER TABLE {quoted} SET LOGGED;"),
        ),
        TableKind::Ordinary => Check::passed("table", quoted.clone()),
        TableKind::Partitioned => Check::passed("table", format!("{quoted}, partitioned")),
    }];
    checks.push(privileges(database, columns, table, &facts.server, missing));
    checks.extend(roles(columns).into_iter().filter_map(|role| {
        column(&role, &quoted, table, |column| sent::problem(database, columns, column, facts, missing))
    }));
    checks.push(order(&quoted, columns, table));
    checks.extend(zone(columns, table, &database.rows));
    checks
}

/// Checks that rows can be read. The stream needs no right to the table. Only backlog, `recover` and `replay` read it.
fn privileges(
    database: &SourceDatabase,
    columns: &ColumnNames,
    table: &TableFacts,
    server: &ServerFacts,
    missing: Missing,
) -> Check {
    const NAME: &str = "table privileges";
    let (name, role) = (&database.table, &server.role);
    let quoted = name.quoted();
    let usage = format!("GRANT USAGE ON SCHEMA {} TO {};", identifier(&name.schema), identifier(role));
    let unreadable = table.unreadable(columns);
    let select = format!("{};", grant_select_sql(name, table, columns, role));
    let (what, cure) = if !unreadable.is_empty() {
        let all = unreadable.len() == table.columns.len();
        let of = if all { String::new() } else { format!("the columns {} of ", unreadable.join(", ")) };
        let grants = if table.may_use_schema { select } else { format!("{usage} {select}") };
        (format!("role {role} may not read {of}{quoted}"), grants)
    } else if !table.may_use_schema {
        (format!("role {role} may not use schema {}", name.schema), usage)
    } else if table.row_security {
        (format!("row security hides rows of {quoted} from role {role}"), see_all_rows_sql(name, role))
    } else {
        return Check::passed(NAME, format!("role {role} may read {quoted}"));
    };
    let is_read = missing == Missing::Mended || missing == Missing::Made && !database.rows.skip_backlog;
    if is_read || !table.may_use_schema {
        return Check::failed(NAME, format!("{what}, which the backlog needs"), cure);
    }
    Check::warning(NAME, format!("{what}: streaming works without it, `recover` and `replay` do not"), cure)
}

/// Functions with one value for a whole transaction or statement.
const ONE_TIME: [&str; 5] =
    ["now()", "current_timestamp", "localtimestamp", "transaction_timestamp()", "statement_timestamp()"];

/// Check of the order in which rows are read from the table, with the column that would give a better one.
fn order(quoted: &str, columns: &ColumnNames, table: &TableFacts) -> Check {
    const NAME: &str = "backlog order";
    let of = |column: &OptionalColumn| column.name().and_then(|name| table.column(name));
    let better = match table.numbered_column() {
        Some(column) => format!(
            "set outbox.columns.sequence = \"{}\", which a sequence numbers as rows are inserted",
            column.name
        ),
        None => format!("ALTER TABLE {quoted} ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY;"),
    };
    if let Some(ColumnFacts { name, nullable, sequence_cache, .. }) = of(&columns.sequence) {
        return match (nullable, sequence_cache) {
            (true, _) => Check::warning(
                NAME,
                format!(
                    "by the sequence column {name}, which may be NULL: backlog, recovery and replay publish rows without a value \
                     first, {}",
                    of(&columns.created_at)
                        .map_or("ordered by their place in the table", |_| "ordered by created_at")
                ),
                format!(
                    "number those rows in the order in which they were written, then run ALTER TABLE {quoted} ALTER COLUMN {} SET \
                     NOT NULL;",
                    identifier(name)
                ),
            ),
            (_, Some(cache)) if *cache > 1 => Check::warning(
                NAME,
                format!(
                    "by the sequence column {name}, of which each session draws {cache} values at a time: backlog, recovery and \
                     replay may publish rows of one aggregate in another order than they were written"
                ),
                "run ALTER SEQUENCE ... CACHE 1; for the sequence of this column",
            ),
            _ => Check::passed(NAME, format!("by the sequence column {name}")),
        };
    }
    let Some(ColumnFacts { name, nullable, default, .. }) = of(&columns.created_at) else {
        return Check::warning(
            NAME,
            "the table has neither a sequence nor a created_at column: backlog, recovery and replay publish rows in no defined order",
            better,
        );
    };
    let default = default.as_deref().unwrap_or_default();
    if ONE_TIME.iter().any(|one| default.to_ascii_lowercase().contains(one)) {
        return Check::warning(
            NAME,
            format!(
                "by {name}, whose default {default} is the start time of a transaction or a statement: backlog, recovery and replay \
                 may publish rows of one aggregate in another order than they were committed"
            ),
            match table.numbered_column() {
                Some(_) => better,
                None => format!(
                    "{better} or, for rows from now on, ALTER TABLE {quoted} ALTER COLUMN {} SET DEFAULT clock_timestamp();",
                    identifier(name)
                ),
            },
        );
    }
    if *nullable {
        return Check::warning(
            NAME,
            format!(
                "by {name}, which may be NULL: backlog, recovery and replay publish rows without a time first"
            ),
            better,
        );
    }
    Check::passed(NAME, format!("by {name}"))
}

/// Checks that `created_at` and the configured zone fit.
fn zone(columns: &ColumnNames, table: &TableFacts, rows: &RowRules) -> Option<Check> {
    let column = columns.created_at.name().and_then(|name| table.column(name))?;
    let name = &column.name;
    match (&rows.created_at_zone, column.is_timestamptz()) {
        (None, true) => None,
        (Some(zone), false) => Some(Check::passed(TIME_ZONE, format!("{name} is read as time in {zone}"))),
        (Some(_), true) => Some(Check::warning(
            TIME_ZONE,
            format!(
                "{name} is {}, which has a time zone: outbox.created_at_zone has no effect",
                column.type_name
            ),
            "remove outbox.created_at_zone",
        )),
        (None, false) => Some(Check::warning(
            TIME_ZONE,
            format!(
                "{name} is {}, and the zone of its times is unknown: `recover` and `replay` refuse --since, and `recover` without \
                 --since publishes all rows",
                column.type_name
            ),
            "set outbox.created_at_zone, for instance to \"America/New_York\"; or make the column timestamptz",
        )),
    }
}

/// OIDs of built-in types (`catalog/pg_type.dat`) with the names SQL has for them.
mod types {
    pub(super) const DOCUMENTS: &[(u32, &str)] = &[
        (114, "json"),
        (3802, "jsonb"),
        (25, "text"),
        (1043, "varchar"),
        (1042, "char"),
        (17, "bytea"),
        (142, "xml"),
    ];
    pub(super) const HEADERS: &[(u32, &str)] = &[(114, "json"), (3802, "jsonb"), (25, "text")];
    pub(super) const INTEGERS: &[(u32, &str)] = &[(20, "bigint"), (23, "integer"), (21, "smallint")];
    pub(super) const TIMES: &[(u32, &str)] = &[(1184, "timestamptz"), (1114, "timestamp")];
    /// Every type, as all have text output.
    pub(super) const ANY: &[(u32, &str)] = &[];
}

struct ColumnRole<'a> {
    check: &'static str,
    key: &'static str,
    name: Option<&'a str>,
    required: bool,
    types: &'static [(u32, &'static str)],
    /// Set if the column is only used when rows are read from the table, so it need not be sent.
    only_read: bool,
}

fn roles<'a>(columns: &'a ColumnNames) -> [ColumnRole<'a>; 8] {
    let role =
        |check, key, name, types| ColumnRole { check, key, name, required: true, types, only_read: false };
    let optional = |check, key, column: &'a OptionalColumn, types| {
        let required = matches!(column, OptionalColumn::Required(_));
        ColumnRole { check, key, name: column.name(), required, types, only_read: key != "headers" }
    };
    [
        role("column id", "id", Some(&*columns.id), types::ANY),
        role("column aggregate_type", "aggregate_type", Some(&*columns.aggregate_type), types::ANY),
        role("column aggregate_id", "aggregate_id", Some(&*columns.aggregate_id), types::ANY),
        role("column event_type", "event_type", Some(&*columns.event_type), types::ANY),
        role("column payload", "payload", Some(&*columns.payload), types::DOCUMENTS),
        optional("column headers", "headers", &columns.headers, types::HEADERS),
        optional("column sequence", "sequence", &columns.sequence, types::INTEGERS),
        optional("column created_at", "created_at", &columns.created_at, types::TIMES),
    ]
}

/// Checks a column; `None` for an optional column that the table does not have, or that is switched off.
fn column(
    role: &ColumnRole<'_>,
    quoted: &str,
    table: &TableFacts,
    unsent: impl FnOnce(&ColumnFacts) -> Option<Problem>,
) -> Option<Check> {
    let name = role.name?;
    let Some(column @ ColumnFacts { base_type_oid, type_name, is_string, .. }) = table.column(name) else {
        let there = table.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        return role.required.then(|| {
            Check::failed(
                role.check,
                format!("table {quoted} has no column {name}; it has {there}"),
                format!("set outbox.columns.{} to the right name, or add the column", role.key),
            )
        });
    };
    if !role.only_read
        && let Some(Problem { what, cure, .. }) = unsent(column)
    {
        return Some(match role.required {
            true => Check::failed(role.check, what, cure),
            false => Check::warning(
                role.check,
                format!("{what}, so it is not used"),
                format!("set outbox.columns.{} = \"\"; or {cure}", role.key),
            ),
        });
    }
    let is_text = *is_string && role.types.iter().any(|(_, name)| *name == "text");
    Some(if role.types.is_empty() || is_text || role.types.iter().any(|(oid, _)| oid == base_type_oid) {
        Check::passed(role.check, format!("{name} {type_name}"))
    } else {
        let allowed = role.types.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        Check::failed(
            role.check,
            format!("column {name} of table {quoted} has type {type_name}, but needs one of {allowed}"),
            format!("set outbox.columns.{} to another column, or change its type", role.key),
        )
    })
}
