//! Whether a database is ready for `run`: a pure function from facts to checks, each with its cure. `run` stops on the
//! first that failed; `check` prints them all.
//!
//! Knows what outboxd needs of PostgreSQL, and the statement that mends what is missing. Reads nothing itself.

use std::fmt;

use super::{
    SourceDatabase, TableName,
    catalog::{
        ColumnFacts, Facts, Held, OwnTableFacts, PublicationFacts, ServerFacts, SlotFacts, TableFacts,
        TableKind, create_publication_sql, create_slot_sql,
    },
    cleanup::{self, Cleanup},
    parked_table, slot_record,
    sql_text::identifier,
};
use crate::outbox::{ColumnNames, OptionalColumn};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, such as `wal_level`.
    pub name: &'static str,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of a [`Check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is well; tells what is there.
    Passed(String),
    /// `run` works, and somebody should know.
    Warning(Problem),
    /// `run` cannot work.
    Failed(Problem),
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// The statement or the act that mends it.
    pub cure: String,
}

impl Check {
    pub(super) fn passed(name: &'static str, detail: impl Into<String>) -> Self {
        Check { name, verdict: Verdict::Passed(detail.into()) }
    }

    fn warning(name: &'static str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Check { name, verdict: Verdict::Warning(Problem { what: what.into(), cure: cure.into() }) }
    }

    pub(super) fn failed(name: &'static str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Check { name, verdict: Verdict::Failed(Problem { what: what.into(), cure: cure.into() }) }
    }

    /// What stops `run`, if this does.
    pub fn failure(&self) -> Option<&Problem> {
        match &self.verdict {
            Verdict::Failed(problem) => Some(problem),
            Verdict::Passed(_) | Verdict::Warning(_) => None,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Passed(detail) => write!(f, "OK       {}: {detail}", self.name),
            Verdict::Warning(Problem { what, cure }) => write!(f, "warning  {}: {what}; {cure}", self.name),
            Verdict::Failed(Problem { what, cure }) => write!(f, "FAILED   {}: {what}; {cure}", self.name),
        }
    }
}

/// Name of the check of the slot itself; whether it is the one that was there before is another question
/// ([`continuity`](super::continuity)).
pub const SLOT: &str = "slot";

/// Everything that `run` needs of the database, in the order in which it would miss it.
pub fn checks(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts) -> Vec<Check> {
    let slot = facts.slots.iter().find(|slot| slot.name == database.slot);
    let mut checks = server(&facts.server, slot.is_none());
    match &facts.table {
        None => checks.push(Check::failed(
            "table",
            format!("{} does not exist in database {}", database.table.quoted(), facts.server.database),
            "`outboxd schema` prints the statement that makes it; or set outbox.table",
        )),
        Some(table) => checks.extend(outbox_table(&database.table, columns, table, &facts.server)),
    }
    checks.push(publication(database, facts));
    checks.extend(cleanup(database, columns, facts));
    checks.push(records(database, facts));
    checks.extend(database.parks.then(|| parked(database, facts)));
    checks.push(match slot {
        Some(slot) => existing_slot(slot, &facts.server),
        None => missing_slot(database),
    });
    checks.push(idle_slots(&database.slot, &facts.slots));
    checks
}

fn server(server: &ServerFacts, slot_needed: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    let version = server.version / 10_000;
    checks.push(if version < 13 {
        Check::failed("version", format!("PostgreSQL {version} is too old"), "upgrade to 13 or later")
    } else {
        Check::passed("version", format!("PostgreSQL {version}"))
    });
    checks.push(if server.in_recovery {
        Check::failed(
            "primary",
            "the server is a standby",
            "connect to the primary; with several hosts in \
            postgres.url, target_session_attrs=read-write finds it",
        )
    } else {
        Check::passed("primary", "the server is not in recovery")
    });
    checks.push(if server.wal_level == "logical" {
        Check::passed("wal_level", "logical")
    } else {
        Check::failed(
            "wal_level",
            format!("wal_level is {}", server.wal_level),
            "ALTER SYSTEM SET wal_level = logical; then restart the server",
        )
    });
    checks.push(if server.may_replicate {
        Check::passed("replication privilege", format!("role {} may replicate", server.role))
    } else {
        Check::failed(
            "replication privilege",
            format!("role {} may not replicate", server.role),
            format!("ALTER ROLE {} REPLICATION;", identifier(&server.role)),
        )
    });
    checks.push(if server.encoding == "SQL_ASCII" {
        Check::warning(
            "encoding",
            "the database's encoding is SQL_ASCII, so the server does not know what its text \
            means: a row that is not UTF-8 cannot become a message",
            "use a database whose encoding is UTF8",
        )
    } else {
        Check::passed("encoding", server.encoding.clone())
    });
    // Publishing a backlog takes a temporary slot beside the permanent one.
    let slots_free = i64::from(server.slots_max) - server.slots_used;
    checks.push(match slots_free {
        free if !slot_needed || free >= 2 => Check::passed("free slots", format!("{} of {}", free.max(0), server.slots_max)),
        free => Check::failed("free slots",
            format!("{} of {} are free, and two are needed to begin", free.max(0), server.slots_max),
            format!("ALTER SYSTEM SET max_replication_slots = {}; then restart the server; or drop a slot that nobody uses",
                server.slots_used + 2)),
    });
    checks.push(if i64::from(server.wal_senders_max) > server.wal_senders_used {
        Check::passed(
            "free walsenders",
            format!(
                "{} of {}",
                i64::from(server.wal_senders_max) - server.wal_senders_used,
                server.wal_senders_max
            ),
        )
    } else {
        Check::failed(
            "free walsenders",
            format!("all {} are at work", server.wal_senders_max),
            format!(
                "ALTER SYSTEM SET max_wal_senders = {}; then restart the server",
                server.wal_senders_used + 2
            ),
        )
    });
    checks
}

fn outbox_table(
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

fn publication(database: &SourceDatabase, facts: &Facts) -> Check {
    const NAME: &str = "publication";
    let kind = facts.table.as_ref().map_or(TableKind::Ordinary, |table| table.kind);
    let create = create_publication_sql(&database.publication, &database.table, kind);
    let name = identifier(&database.publication);
    let table = database.table.quoted();
    let Some(publication) = &facts.publication else {
        // Of a table that is missing nobody is the owner; it fails its own check.
        let may = facts.server.may_create && facts.table.as_ref().is_none_or(|table| table.owned);
        return match database.create {
            true if may => Check::passed(NAME, format!("{name} will be created")),
            true => Check::failed(
                NAME,
                format!(
                    "{name} does not exist, and role {} may not create it: that takes CREATE on the database and the \
                    ownership of the table",
                    facts.server.role
                ),
                format!("as the table's owner: {create};"),
            ),
            false => Check::failed(
                NAME,
                format!("{name} does not exist, and postgres.create is false"),
                format!("{create};"),
            ),
        };
    };
    let PublicationFacts { all_tables, insert, held, row_filter, columns_left_out, .. } = publication;
    if !insert {
        return Check::failed(
            NAME,
            format!("{name} does not publish inserts"),
            format!("ALTER PUBLICATION {name} SET (publish = 'insert');"),
        );
    }
    match held {
        Held::No if *all_tables => {
            return Check::failed(
                NAME,
                format!("{name} holds all tables, but not {table}"),
                "an unlogged, temporary or foreign table cannot be published: see the check of the table",
            );
        }
        Held::No => {
            return Check::failed(
                NAME,
                format!("{name} does not hold {table}"),
                format!("ALTER PUBLICATION {name} ADD TABLE {}{table};", kind.only()),
            );
        }
        // What is published as partitions comes under their names, and would be taken for rows of other tables.
        Held::AsPartitions => {
            return Check::failed(
                NAME,
                format!("{name} publishes {table} as its partitions"),
                format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true);"),
            );
        }
        Held::AsItself => {}
    }
    if !columns_left_out.is_empty() {
        return Check::failed(
            NAME,
            format!("{name} leaves out columns of {table}: {}", columns_left_out.join(", ")),
            format!("ALTER PUBLICATION {name} SET TABLE {}{table};", kind.only()),
        );
    }
    let mut more = Vec::new();
    if let Some(filter) = row_filter {
        more.push(format!("publishes only rows WHERE {filter}, and the backlog is not filtered"));
    }
    match publication.other_tables {
        0 => {}
        others => more.push(format!("holds {others} other tables, whose rows are ignored")),
    }
    if !publication.more_operations.is_empty() {
        more.push(format!("publishes {} too, which is ignored", publication.more_operations.join(", ")));
    }
    if more.is_empty() {
        Check::passed(NAME, format!("{name} publishes inserts of {table}"))
    } else {
        Check::warning(
            NAME,
            format!("{name} {}", more.join("; ")),
            format!("one for outboxd alone costs the server less: DROP PUBLICATION {name}; {create};"),
        )
    }
}

/// Whether confirmed rows can be removed. Never a failure: a table that grows is no reason to relay nothing.
fn cleanup(database: &SourceDatabase, columns: &ColumnNames, facts: &Facts) -> Option<Check> {
    const NAME: &str = "cleanup";
    let (Cleanup { retention }, table) = (database.cleanup?, facts.table.as_ref()?);
    let quoted = database.table.quoted();
    let created_at = columns.created_at.name().filter(|name| table.column(name).is_some());
    Some(if !table.may_remove {
        let role = &facts.server.role;
        Check::warning(
            NAME,
            format!("role {role} may not remove rows of {quoted}, so all of them stay"),
            format!("{};", cleanup::grant_sql(database, columns, role)),
        )
    } else if !retention.is_zero() && created_at.is_none() {
        Check::warning(
            NAME,
            format!(
                "{quoted} has no column for the time of a row, which cleanup.retention_s needs, so all rows stay"
            ),
            format!(
                "ALTER TABLE {quoted} ADD COLUMN created_at timestamptz NOT NULL DEFAULT clock_timestamp(); or set \
                 outbox.columns.created_at, or cleanup.retention_s = 0"
            ),
        )
    } else if let Some(why) = facts.publication.as_ref().and_then(|facts| cleanup::unpublished(Some(facts))) {
        Check::warning(
            NAME,
            format!(
                "publication {} {why}, and a row that was not published is not removed, so all rows stay",
                identifier(&database.publication)
            ),
            "have it publish all inserts of the table, or set cleanup.mode = \"none\"",
        )
    } else {
        let seconds = retention.as_secs();
        Check::passed(NAME, format!("confirmed rows of {quoted} are removed when they are {seconds} s old"))
    })
}

/// The table of slot records. With the outbox table's schema missing there is no place for it, and the table's check fails.
fn records(database: &SourceDatabase, facts: &Facts) -> Check {
    own_table(
        database,
        facts,
        &OwnTable {
            check: "records of slots",
            table: slot_record::TABLE,
            create: slot_record::create_table_sql(database),
            grant: slot_record::grant_sql(database, &facts.server.role),
            facts: facts.records,
        },
    )
}

fn parked(database: &SourceDatabase, facts: &Facts) -> Check {
    own_table(
        database,
        facts,
        &OwnTable {
            check: "parked messages",
            table: parked_table::TABLE,
            create: parked_table::create_table_sql(database),
            grant: parked_table::grant_sql(database, &facts.server.role),
            facts: facts.parked,
        },
    )
}

/// A table that outboxd writes, and the statements that somebody else may make it with.
struct OwnTable {
    check: &'static str,
    table: &'static str,
    create: String,
    grant: String,
    facts: OwnTableFacts,
}

/// With the outbox table's schema missing there is no place for a table beside it, and the outbox table's check fails.
fn own_table(database: &SourceDatabase, facts: &Facts, own: &OwnTable) -> Check {
    let OwnTable { check, table, create, grant, facts: OwnTableFacts { exists, may_use, may_create } } = own;
    let role = &facts.server.role;
    match (*exists, database.create) {
        (true, _) if *may_use => Check::passed(check, format!("{table} is there")),
        (true, _) => {
            Check::failed(check, format!("role {role} may not read and write {table}"), format!("{grant};"))
        }
        (false, true) if *may_create || facts.table.is_none() => {
            Check::passed(check, format!("{table} will be created"))
        }
        (false, true) => Check::failed(
            check,
            format!(
                "{table} does not exist, and role {role} may not create it in schema {}",
                database.table.schema
            ),
            format!("{create}; {grant};"),
        ),
        (false, false) => Check::failed(
            check,
            format!("{table} does not exist, and postgres.create is false"),
            format!("{create}; {grant};"),
        ),
    }
}

fn missing_slot(database: &SourceDatabase) -> Check {
    if database.create {
        Check::passed(SLOT, format!("{} will be created", database.slot))
    } else {
        Check::failed(
            SLOT,
            format!("{} does not exist, and postgres.create is false", database.slot),
            format!("{};", create_slot_sql(&database.slot)),
        )
    }
}

fn existing_slot(slot: &SlotFacts, server: &ServerFacts) -> Check {
    const NAME: &str = SLOT;
    let other = "set postgres.slot to another name";
    let name = &slot.name;
    match (&slot.plugin, &slot.database) {
        (None, _) => return Check::failed(NAME, format!("{name} is a physical slot"), other),
        (Some(plugin), _) if plugin != "pgoutput" => {
            return Check::failed(
                NAME,
                format!("{name} is a slot of the plugin {plugin}, not pgoutput"),
                other,
            );
        }
        (_, Some(database)) if *database != server.database => {
            return Check::failed(
                NAME,
                format!("{name} belongs to database {database}, not {}", server.database),
                other,
            );
        }
        _ if slot.temporary => {
            return Check::failed(NAME, format!("{name} is a temporary slot of another session"), other);
        }
        _ => {}
    }
    if slot.is_lost() {
        let why = slot.invalidation.as_deref().unwrap_or("max_slot_wal_keep_size was exceeded");
        let confirmed = slot
            .confirmed_flush
            .map(|lsn| format!(" Rows after {lsn} have not been published."))
            .unwrap_or_default();
        return Check::failed(
            NAME,
            format!("{name} is lost: the server has removed WAL that it needs ({why}).{confirmed}"),
            "`outboxd recover` makes a new slot and publishes the rows that the table still has; a larger \
             max_slot_wal_keep_size keeps it from happening again",
        );
    }
    if slot.wal_status.as_deref() == Some("unreserved") {
        return Check::warning(
            NAME,
            format!(
                "{name} is about to be lost: it needs {} bytes of WAL, more than \
            max_slot_wal_keep_size",
                slot.retained_bytes
            ),
            "let outboxd catch up now, or raise max_slot_wal_keep_size",
        );
    }
    if slot.two_phase {
        return Check::failed(
            NAME,
            format!("{name} decodes prepared transactions (two_phase), which outboxd does not"),
            other,
        );
    }
    let active = slot.active_pid.map(|pid| format!(", in use by process {pid}")).unwrap_or_default();
    Check::passed(NAME, format!("{name}{active}, {} bytes behind", slot.lag_bytes))
}

fn idle_slots(ours: &str, slots: &[SlotFacts]) -> Check {
    const NAME: &str = "inactive slots";
    let idle: Vec<_> = slots
        .iter()
        .filter(|slot| slot.active_pid.is_none() && slot.restart_lsn.is_some() && slot.name != ours)
        .collect();
    if idle.is_empty() {
        return Check::passed(NAME, "no other slot holds WAL back unused");
    }
    let what = idle
        .iter()
        .map(|slot| format!("{} holds back {} bytes of WAL", slot.name, slot.retained_bytes))
        .collect::<Vec<_>>();
    Check::warning(
        NAME,
        what.join(", "),
        "drop those that nobody will use again: SELECT pg_drop_replication_slot(name);",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::position::Lsn;

    fn good_server() -> ServerFacts {
        ServerFacts {
            version: 150_014,
            wal_level: "logical".into(),
            database: "orders".into(),
            encoding: "UTF8".into(),
            role: "outboxd".into(),
            may_replicate: true,
            may_create: true,
            in_recovery: false,
            slots_max: 10,
            slots_used: 8,
            wal_senders_max: 10,
            wal_senders_used: 9,
        }
    }

    fn good_slot() -> SlotFacts {
        SlotFacts {
            name: "outboxd_orders".into(),
            plugin: Some("pgoutput".into()),
            database: Some("orders".into()),
            temporary: false,
            active_pid: None,
            confirmed_flush: Some(Lsn(90)),
            restart_lsn: Some(Lsn(50)),
            wal_status: Some("reserved".into()),
            invalidation: None,
            two_phase: false,
            failover: false,
            retained_bytes: 50,
            lag_bytes: 10,
            current: Lsn(100),
        }
    }

    /// The one check that failed, and nothing else.
    fn only_failure(facts: &ServerFacts) -> (&'static str, String) {
        let failed: Vec<_> =
            server(facts, true).into_iter().filter(|check| check.failure().is_some()).collect();
        let [check] = failed.as_slice() else { panic!("{failed:?}") };
        (check.name, check.failure().unwrap().cure.clone())
    }

    #[test]
    fn each_fault_of_a_server_fails_its_own_check() {
        assert!(server(&good_server(), true).iter().all(|check| matches!(check.verdict, Verdict::Passed(_))));
        for (facts, check, cure) in [
            (ServerFacts { version: 120_018, ..good_server() }, "version", "13"),
            (ServerFacts { in_recovery: true, ..good_server() }, "primary", "target_session_attrs"),
            (ServerFacts { wal_level: "replica".into(), ..good_server() }, "wal_level", "ALTER SYSTEM"),
            (
                ServerFacts { may_replicate: false, ..good_server() },
                "replication privilege",
                "ALTER ROLE \"outboxd\" REPLICATION",
            ),
            (ServerFacts { slots_used: 9, ..good_server() }, "free slots", "max_replication_slots = 11"),
            (ServerFacts { wal_senders_used: 10, ..good_server() }, "free walsenders", "max_wal_senders"),
        ] {
            let (failed, advice) = only_failure(&facts);
            assert_eq!(failed, check);
            assert!(advice.contains(cure), "{check}: {advice}");
        }
        let full = ServerFacts { slots_used: 10, ..good_server() };
        assert!(server(&full, false).iter().all(|check| check.failure().is_none()), "ours is among the ten");
    }

    #[test]
    fn a_slot_that_cannot_serve_fails_and_one_in_use_does_not() {
        let verdict = |slot: SlotFacts| existing_slot(&slot, &good_server()).verdict;
        assert!(matches!(verdict(good_slot()), Verdict::Passed(_)));
        assert!(matches!(verdict(SlotFacts { active_pid: Some(7), ..good_slot() }), Verdict::Passed(_)));
        for (slot, what) in [
            (SlotFacts { plugin: None, database: None, ..good_slot() }, "physical"),
            (SlotFacts { plugin: Some("wal2json".into()), ..good_slot() }, "wal2json"),
            (SlotFacts { database: Some("users".into()), ..good_slot() }, "users"),
            (
                SlotFacts { wal_status: Some("lost".into()), ..good_slot() },
                "after 0/5A have not been published",
            ),
            (SlotFacts { invalidation: Some("idle_timeout".into()), ..good_slot() }, "idle_timeout"),
            (SlotFacts { two_phase: true, ..good_slot() }, "prepared"),
        ] {
            let Verdict::Failed(problem) = verdict(slot) else { panic!("{what}") };
            assert!(problem.what.contains(what), "{}", problem.what);
        }
        let late = SlotFacts { wal_status: Some("unreserved".into()), ..good_slot() };
        assert!(matches!(verdict(late), Verdict::Warning(_)));
    }

    #[test]
    fn slots_that_nobody_uses_and_that_hold_wal_are_a_warning() {
        let other = |active_pid, restart_lsn| SlotFacts {
            name: "old".into(),
            active_pid,
            restart_lsn,
            ..good_slot()
        };
        for (slot, warns) in [
            (good_slot(), false),
            (other(Some(1), Some(Lsn(1))), false),
            (other(None, None), false),
            (other(None, Some(Lsn(1))), true),
        ] {
            let check = idle_slots("outboxd_orders", std::slice::from_ref(&slot));
            assert_eq!(matches!(check.verdict, Verdict::Warning(_)), warns, "{slot:?}");
        }
    }
}
