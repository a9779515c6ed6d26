//! The outbox table: its sort, the right to read it, its columns.

use super::{
    super::{
        TableName,
        catalog::{ColumnFacts, ServerFacts, TableFacts, TableKind},
        sql_text::identifier,
    },
    Check,
};
use crate::outbox::{ColumnNames, OptionalColumn};

pub(super) fn checks(
    name: &TableName,
    columns: &ColumnNames,
    table: &TableFacts,
    server: &ServerFacts,
) -> Vec<Check> {
    let quoted = name.quoted();
    let role = identifier(&server.role);
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
    let mut missing = Vec::new();
    if !table.may_use_schema {
        missing.push(format!("GRANT USAGE ON SCHEMA {} TO {role};", identifier(&name.schema)));
    }
    if !table.may_select {
        missing.push(format!("GRANT SELECT ON {quoted} TO {role};"));
    }
    checks.push(if !missing.is_empty() {
        Check::failed(
            "table privileges",
            format!("role {} may not read {quoted}, which the backlog needs", server.role),
            missing.join(" "),
        )
    } else if table.row_security {
        Check::failed(
            "table privileges",
            format!("row security hides rows of {quoted} from role {}", server.role),
            format!("ALTER TABLE {quoted} DISABLE ROW LEVEL SECURITY; or ALTER ROLE {role} BYPASSRLS;"),
        )
    } else {
        Check::passed("table privileges", format!("role {} may read {quoted}", server.role))
    });
    checks.extend(roles(columns).into_iter().filter_map(|role| column(&role, table)));
    let present = |column: &OptionalColumn| column.name().is_some_and(|name| table.column(name).is_some());
    checks.push(if present(&columns.sequence) || present(&columns.created_at) {
        Check::passed(
            "backlog order",
            if present(&columns.sequence) { "by the sequence column" } else { "by created_at" },
        )
    } else {
        Check::warning(
            "backlog order",
            "the table has neither a sequence nor a created_at column: rows that were there \
            before the slot are published in no promised order",
            format!("ALTER TABLE {quoted} ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY;"),
        )
    });
    checks
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
    /// Whatever has text output, which every type has.
    pub(super) const ANY: &[(u32, &str)] = &[];
}

struct ColumnRole<'a> {
    check: &'static str,
    key: &'static str,
    name: Option<&'a str>,
    required: bool,
    types: &'static [(u32, &'static str)],
}

fn roles<'a>(columns: &'a ColumnNames) -> [ColumnRole<'a>; 8] {
    let role = |check, key, name, types| ColumnRole { check, key, name, required: true, types };
    let optional = |check, key, column: &'a OptionalColumn, types| {
        let required = matches!(column, OptionalColumn::Required(_));
        ColumnRole { check, key, name: column.name(), required, types }
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

/// `None` for an optional column that the table does not have, or that is switched off.
fn column(role: &ColumnRole<'_>, table: &TableFacts) -> Option<Check> {
    let name = role.name?;
    let Some(ColumnFacts { base_type_oid, type_name, .. }) = table.column(name) else {
        let there = table.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        return role.required.then(|| {
            Check::failed(
                role.check,
                format!("the table has no column {name}; it has {there}"),
                format!("set outbox.columns.{}, or add the column", role.key),
            )
        });
    };
    Some(if role.types.is_empty() || role.types.iter().any(|(oid, _)| oid == base_type_oid) {
        Check::passed(role.check, format!("{name} {type_name}"))
    } else {
        let allowed = role.types.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        Check::failed(
            role.check,
            format!("column {name} is of type {type_name}, and should be one of {allowed}"),
            format!("set outbox.columns.{} to another column, or change its type", role.key),
        )
    })
}
