//! Check of code of other owners that runs with the rights of outboxd's role.

use crate::{
    postgres::{SourceDatabase, sql_text::identifier},
    preflight::facts::{
        Facts,
        foreign_code::{ForeignCode, Kind},
    },
};
use diagnostics::check::Check;

/// Columns of outboxd's own tables that have a default.
const TIMES: [&str; 2] = ["parked_at", "written_at"];

/// Checks that no code of other owners runs as outboxd's role. A warning, because an operator may want the code and trust its owner.
pub(super) fn check(database: &SourceDatabase, facts: &Facts) -> Vec<Check> {
    const NAME: &str = "code of others";
    let cleans = database.cleanup.is_some();
    let is_read =
        |kind: Kind| matches!(kind, Kind::Index | Kind::PartitionKey | Kind::Policy | Kind::Statistics);
    let runs = |code: &&ForeignCode| !code.in_outbox || cleans || is_read(code.kind);
    let warnings = facts.foreign_code.iter().filter(runs).map(|code| {
        let ForeignCode { table, in_outbox, kind, name } = code;
        let (schema, role) = (identifier(&table.schema), &facts.server.role);
        let is_schema_shared = table.schema == database.table.schema;
        let (table, quoted) = (table.quoted(), identifier(name));
        let (what, mends) = match kind {
            Kind::Trigger => {
                (format!("trigger {quoted} of {table}"), format!("DROP TRIGGER {quoted} ON {table};"))
            }
            Kind::Rule => (format!("rule {quoted} of {table}"), format!("DROP RULE {quoted} ON {table};")),
            Kind::Index => (
                format!("a function that index {name} of {table} calls"),
                "let the index call functions of pg_catalog only".to_owned(),
            ),
            Kind::Constraint => (
                format!("CHECK constraint {quoted} of {table}"),
                format!("ALTER TABLE {table} DROP CONSTRAINT {quoted};"),
            ),
            Kind::Default => (
                format!("the default of column {quoted} of {table}"),
                match TIMES.contains(&name.as_str()) {
                    true => format!("ALTER TABLE {table} ALTER {quoted} SET DEFAULT clock_timestamp();"),
                    false => format!("ALTER TABLE {table} ALTER {quoted} DROP DEFAULT;"),
                },
            ),
            Kind::Generated => (
                format!("generated column {quoted} of {table}"),
                format!("ALTER TABLE {table} ALTER {quoted} DROP EXPRESSION; or, where it is virtual or not of outboxd's, DROP {quoted};"),
            ),
            Kind::PartitionKey => (
                format!("a function that the partition key of {table} calls"),
                "let the key call functions of pg_catalog only".to_owned(),
            ),
            Kind::Type => (
                format!("the type of column {quoted} of {table}"),
                "give the column the type that `outboxd setup --print-sql` prints".to_owned(),
            ),
            Kind::Policy => {
                (format!("policy {quoted} of {table}"), format!("DROP POLICY {quoted} ON {table};"))
            }
            Kind::Statistics => (
                format!("a function that statistics {name} of {table} call"),
                format!("DROP STATISTICS {name};"),
            ),
            Kind::NoTable => (
                format!("the code behind {table}, which is not an ordinary table,"),
                "rename it, and let `outboxd setup` create the table".to_owned(),
            ),
            Kind::Owner => (
                format!("any code that role {quoted} adds to {table}, which it owns,"),
                format!("ALTER TABLE {table} OWNER TO {};", identifier(role)),
            ),
            Kind::SchemaOwner => (
                format!("any code that role {quoted} puts in the place of outboxd's tables in schema {schema}, which it owns,"),
                match is_schema_shared {
                    true => format!("set postgres.schema to a schema that belongs to {}", identifier(role)),
                    false => format!("ALTER SCHEMA {schema} OWNER TO {};", identifier(role)),
                },
            ),
        };
        let (when, or) = match (in_outbox, is_read(*kind)) {
            (true, true) => ("may run as role {role} when outboxd reads rows", ""),
            (true, false) => {
                ("runs as role {role} when clean-up removes a row", "or set cleanup.mode = \"none\"; ")
            }
            (false, _) => ("runs as role {role} when outboxd reads or writes its own tables", ""),
        };
        let when = when.replace("{role}", role);
        Check::warning(
            NAME,
            format!(
                "{what} {when}, with all its rights. A role that may replicate may drop every slot of the server"
            ),
            format!("{mends} {or}or make sure that only trusted roles can alter it"),
        )
    });
    let warnings: Vec<Check> = warnings.collect();
    if warnings.is_empty() {
        return vec![Check::passed(
            NAME,
            "the outbox table and outboxd's own tables have no trigger, rule, policy, constraint, default, index or statistics of \
             other owners that runs as outboxd's role",
        )];
    }
    warnings
}
