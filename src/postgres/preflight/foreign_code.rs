//! Triggers, rules and functions of others that run with the rights of outboxd's role.

use super::{
    super::{
        SourceDatabase,
        catalog::Facts,
        foreign_code::{ForeignCode, Kind},
        sql_text::identifier,
    },
    Check,
};

/// Check that nothing of somebody else's runs as outboxd's role. A warning: somebody may want it, and trust its owner.
pub(super) fn check(database: &SourceDatabase, facts: &Facts) -> Vec<Check> {
    const NAME: &str = "code of others";
    let cleans = database.cleanup.is_some();
    let runs = |code: &&ForeignCode| {
        !code.in_outbox || cleans || matches!(code.kind, Kind::Index | Kind::Constraint)
    };
    let warnings = facts.foreign_code.iter().filter(runs).map(|code| {
        let ForeignCode { table, in_outbox, kind, name } = code;
        let (table, quoted, role) = (table.quoted(), identifier(name), &facts.server.role);
        let (what, mends) = match kind {
            Kind::Trigger => {
                (format!("trigger {quoted} of {table}"), format!("DROP TRIGGER {quoted} ON {table};"))
            }
            Kind::Rule => (format!("rule {quoted} of {table}"), format!("DROP RULE {quoted} ON {table};")),
            Kind::Index => (
                format!("a function that index {name} of {table} calls"),
                "have the index call functions of pg_catalog only".to_owned(),
            ),
            Kind::Constraint => (
                format!("a function that constraint {quoted} of {table} calls"),
                format!("ALTER TABLE {table} DROP CONSTRAINT {quoted};"),
            ),
        };
        let (when, or) = match (in_outbox, kind) {
            (true, Kind::Index | Kind::Constraint) => ("may run as role {role} when outboxd reads rows", ""),
            (true, _) => {
                ("runs as role {role} when clean-up removes a row", "or set cleanup.mode = \"none\"; ")
            }
            (false, _) => ("runs as role {role} when outboxd writes there", ""),
        };
        let when = when.replace("{role}", role);
        Check::warning(
            NAME,
            format!(
                "{what} {when}, with all its rights: one that may replicate may drop every slot of the server"
            ),
            format!("{mends} {or}or see that only roles that {role} trusts can alter it"),
        )
    });
    let warnings: Vec<Check> = warnings.collect();
    if warnings.is_empty() {
        return vec![Check::passed(
            NAME,
            "no trigger, no rule and no function of others runs when outboxd reads or writes",
        )];
    }
    warnings
}
