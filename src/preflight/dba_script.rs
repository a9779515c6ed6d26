//! Everything that one source needs of its database, as SQL for somebody who may create it: a role with no more rights
//! than the commands take, the publication, the slot. Pure text; what need not be run stands in comments. It can be run again:
//! what is there stays as it is.
//!
//! The publication belongs to whoever runs the script. Nothing but `teardown` would drop it, and an owner could take
//! rows out of it unseen.

use crate::{
    cleanup,
    message::ColumnNames,
    parking::parked_table,
    postgres::{
        SourceDatabase, TableName,
        outbox_table::TableKind,
        sql_text::{block, identifier, literal, make_schema_sql},
    },
    slot::{creation::create_slot_sql, publication, record},
};
use pg_replication::Hosting;

/// In place of the password, which is not for us to choose.
const PASSWORD: &str = "CHANGE ME";

/// The maker of the slot, who decides what becomes of the rows that are in the table before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotMaker {
    /// `run` publishes those rows and makes the slot then: a slot made before would have it take them for published.
    Run,
    /// Whoever runs the script makes the slot; the rows are not published.
    Script,
}

/// The script. Valid as it stands for an ordinary table; the statement for a partitioned one is in a comment.
pub fn script(database: &SourceDatabase, columns: &ColumnNames, slot: SlotMaker) -> String {
    let role = identifier(database.endpoint.user());
    let name = identifier(database.endpoint.database());
    let table = database.table.quoted();
    let publication = |kind| {
        let create = publication::create_sql(&database.publication, &database.table, kind);
        let there = format!("SELECT FROM pg_publication WHERE pubname = {}", literal(&database.publication));
        block(&format!("IF NOT EXISTS ({there}) THEN\n    {create};\n  END IF;"))
    };
    // In a statement of its own, outside of a block: the server makes no slot in a transaction that has written.
    let create_slot = format!(
        "{} WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {});",
        create_slot_sql(&database.slot, database.failover),
        literal(&database.slot)
    );
    let kept = if database.cleanup.is_some() {
        format!(
            "-- If the table has rows when `run` first takes a slot that was made here, clean-up (cleanup.mode = \"delete\") removes\n\
             -- nothing, as they may never have been published, until you have looked after them and say so:\n{}",
            comment(&(record::declare_published_sql(database) + ";"))
        )
    } else {
        String::new()
    };
    let create_slot = match slot {
        SlotMaker::Script => format!(
            "-- The slot. Rows that are in the table before it are not published. Waits for the transactions that write now.\n\
             {kept}{create_slot}\n"
        ),
        SlotMaker::Run => format!(
            "-- The slot is made by `run`, after it has published the rows that are in the table by then (backlog = \"publish\").\n\
             -- Make it here only if those rows are not to be published:\n{kept}{}",
            comment(&create_slot)
        ),
    };
    let parked = if database.parks {
        format!(
            "-- What policy puts aside (delivery.on_unroutable, delivery.on_invalid), until `outboxd parked` requeues or \
             discards it.\n{};\n{};\n\n",
            parked_table::create_table_sql(database),
            parked_table::grant_sql(database, database.endpoint.user()),
        )
    } else {
        String::new()
    };
    format!(
        "-- The server, once, with a restart (as far as it is not so):\n\
         --   ALTER SYSTEM SET wal_level = logical;\n\
         {managed}\
         -- pg_hba.conf must let the role into the database by an ordinary line; one for `replication` is not needed.\n\
         \n\
         -- No function of somebody else's is called in place of PostgreSQL's own.\n\
         SET search_path = pg_catalog, pg_temp;\n\
         \n\
         -- The role. One that is there keeps its password.\n\
         {make_role}\n\
         GRANT CONNECT ON DATABASE {name} TO {role};\n\
         GRANT USAGE ON SCHEMA {schema} TO {role};\n\
         GRANT SELECT ON {table} TO {role};\n\
         {remove}\
         {temporary}\
         \n\
         -- The publication: before the slot, and by the table's owner or a superuser, whose it stays; `outboxd teardown` says how\n\
         -- to drop it.\n\
         {ordinary}\n\
         -- for a partitioned table instead:\n\
         {partitioned}\
         {no_heirs}\
         \n\
         {own_schema}\
         -- What outboxd writes down of its slot, to notice when it is lost or replaced.\n\
         {records};\n\
         {grant};\n\
         \n\
         {parked}\
         {create_slot}\n\
         RESET search_path;\n",
        make_role = block(&format!(
            "IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {}) THEN\n    \
             CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}';\n  ELSE\n    \
             ALTER ROLE {role} LOGIN;\n  END IF;\n  \
             IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication') THEN\n    \
             GRANT rds_replication TO {role};\n  ELSE\n    \
             ALTER ROLE {role} REPLICATION;\n  END IF;",
            literal(database.endpoint.user())
        )),
        remove = database.cleanup.map_or_else(String::new, |_| {
            cleanup::grant_sql(database, columns, database.endpoint.user()) + ";\n"
        }),
        // By a temporary view the server says what it makes of the condition.
        temporary = match database.rows.unpublished {
            Some(_) => format!("GRANT TEMPORARY ON DATABASE {name} TO {role};\n"),
            None => String::new(),
        },
        no_heirs = instead_of_heirs(database, columns),
        managed = managed(database.endpoint.user()),
        schema = identifier(&database.table.schema),
        own_schema = match database.schema == database.table.schema {
            true => String::new(),
            false => format!(
                "-- A schema for outboxd's own tables (postgres.schema), in which nobody else makes triggers.\n{};\n\n",
                make_schema_sql(&database.schema, database.endpoint.user())
            ),
        },
        ordinary = publication(TableKind::Ordinary),
        partitioned = comment(&publication(TableKind::Partitioned)),
        records = record::create_table_sql(database),
        grant = record::grant_sql(database, database.endpoint.user()),
    )
}

/// The ways of managed services to give what the script takes a superuser for.
fn managed(role: &str) -> String {
    let first = "Where a managed service refuses that, or REPLICATION for the role below, its own way is:";
    let notes = Hosting::notes(role).map(|note| format!("  {note}"));
    std::iter::once(first.to_owned()).chain(notes).map(|line| comment(&line)).collect()
}

/// For a table whose rows lie in tables that inherit from it: one that PostgreSQL itself partitions, in its place.
fn instead_of_heirs(database: &SourceDatabase, columns: &ColumnNames) -> String {
    let TableName { schema, table } = &database.table;
    let named = |suffix| TableName { schema: schema.clone(), table: format!("{table}_{suffix}") }.quoted();
    let (outbox, before, default) = (database.table.quoted(), named("before"), named("default"));
    let created_at = identifier(columns.created_at.name().unwrap_or("created_at"));
    let publication = identifier(&database.publication);
    let publish = block(&format!(
        "IF EXISTS (SELECT FROM pg_publication WHERE pubname = {}) THEN\n    \
         ALTER PUBLICATION {publication} DROP TABLE ONLY {before};\n    \
         ALTER PUBLICATION {publication} ADD TABLE {outbox};\n    \
         ALTER PUBLICATION {publication} SET (publish_via_partition_root = true);\n  END IF;",
        literal(&database.publication)
    ));
    let statements = format!(
        "BEGIN;\n\
         ALTER TABLE {outbox} RENAME TO {renamed};\n\
         CREATE TABLE {outbox} (LIKE {before} INCLUDING DEFAULTS INCLUDING IDENTITY) PARTITION BY RANGE ({created_at});\n\
         CREATE TABLE {default} PARTITION OF {outbox} DEFAULT;\n\
         {publish}\n\
         COMMIT;",
        renamed = identifier(&format!("{table}_before")),
    );
    format!(
        "-- Rows that lie in tables that inherit from it, as the chunks of a TimescaleDB hypertable do, are never published. In place of\n\
         -- such a table one that PostgreSQL itself partitions, while nobody writes and outboxd has confirmed everything:\n\
         {}-- Then have each identity or serial column go on where the old one stands, for ids that come again are taken for copies:\n\
         --   SELECT setval(pg_get_serial_sequence(NEW TABLE, COLUMN), (SELECT max(COLUMN) FROM OLD TABLE));\n\
         -- and give the new table the application's GRANTs, constraints, indexes and triggers, the GRANTs above, and partitions ahead\n\
         -- of time; `outboxd recover` if there is a slot. Rows of the tables that inherited were never published: those that you\n\
         -- insert into the new table are.\n",
        comment(&statements)
    )
}

/// Text as comment lines, each with its line feed. A quoted name may hold line breaks, which end a comment.
pub fn comment(text: &str) -> String {
    text.split(['\n', '\r']).map(|line| format!("-- {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::postgres::TableName;
    use pg_replication::Endpoint;
    use std::time::Duration;

    #[test]
    fn names_are_quoted_the_password_is_not_shown_and_a_slot_made_too_early_is_a_comment() {
        let database = SourceDatabase {
            endpoint: Endpoint::parse("postgresql://order%22s:s3cret@h/my-db").unwrap(),
            slot: "outboxd_orders".into(),
            publication: "two\nlines".into(),
            create: true,
            failover: false,
            table: TableName { schema: "Bestell-Dienst".into(), table: "outbox".into() },
            schema: "Bestell-Dienst".into(),
            rows: Default::default(),
            cleanup: None,
            parks: false,
            wal_sender_timeout: Duration::from_secs(10),
        };
        let statements = |database: &SourceDatabase, slot| {
            let script = script(database, &ColumnNames::default(), slot);
            assert!(!script.contains("s3cret"), "{script}");
            // A session that reads it in (`\i`) goes on with its own path.
            assert!(script.ends_with("\nRESET search_path;\n"), "{script}");
            script
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with("--") && *line != "RESET search_path;")
                .collect::<Vec<_>>()
                .join("\n")
        };
        let without_slot = r#"SET search_path = pg_catalog, pg_temp;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'order"s') THEN
    CREATE ROLE "order""s" LOGIN PASSWORD 'CHANGE ME';
  ELSE
    ALTER ROLE "order""s" LOGIN;
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication') THEN
    GRANT rds_replication TO "order""s";
  ELSE
    ALTER ROLE "order""s" REPLICATION;
  END IF;
END $$;
GRANT CONNECT ON DATABASE "my-db" TO "order""s";
GRANT USAGE ON SCHEMA "Bestell-Dienst" TO "order""s";
GRANT SELECT ON "Bestell-Dienst"."outbox" TO "order""s";
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'two
lines') THEN
    CREATE PUBLICATION "two
lines" FOR TABLE ONLY "Bestell-Dienst"."outbox" WITH (publish = 'insert');
  END IF;
END $$;
CREATE TABLE IF NOT EXISTS "Bestell-Dienst"."outboxd_state" (slot text PRIMARY KEY, system_identifier text NOT NULL, timeline bigint NOT NULL, confirmed_flush pg_lsn NOT NULL, confirmed_until timestamptz, holder text, gap text, published_by text, unaccounted text, version bigint NOT NULL, written_at timestamptz NOT NULL DEFAULT clock_timestamp());
GRANT SELECT, INSERT, UPDATE, DELETE ON "Bestell-Dienst"."outboxd_state" TO "order""s";"#;
        assert_eq!(statements(&database, SlotMaker::Run), without_slot);
        let slot = "SELECT pg_catalog.pg_create_logical_replication_slot('outboxd_orders', 'pgoutput') WHERE NOT EXISTS (SELECT FROM \
                    pg_replication_slots WHERE slot_name = 'outboxd_orders');";
        assert_eq!(statements(&database, SlotMaker::Script), format!("{without_slot}\n{slot}"));

        let cleanup = Some(crate::postgres::Cleanup { retention: Duration::ZERO });
        let removing = statements(&SourceDatabase { cleanup, ..database.clone() }, SlotMaker::Run);
        assert!(
            removing.contains(r#"GRANT DELETE, UPDATE ("id") ON "Bestell-Dienst"."outbox" TO "order""s";"#),
            "{removing}"
        );

        for maker in [SlotMaker::Run, SlotMaker::Script] {
            let said = |database| script(database, &ColumnNames::default(), maker).contains("clean-up (");
            assert!(!said(&database) && said(&SourceDatabase { cleanup, ..database.clone() }));
        }

        let parks = statements(&SourceDatabase { parks: true, ..database }, SlotMaker::Run);
        let more: Vec<&str> = parks.strip_prefix(without_slot).unwrap().trim().lines().collect();
        assert!(
            more[0].starts_with(r#"CREATE TABLE IF NOT EXISTS "Bestell-Dienst"."outboxd_parked" (slot text"#)
        );
        assert_eq!(
            more[1..],
            [r#"GRANT SELECT, INSERT, UPDATE, DELETE ON "Bestell-Dienst"."outboxd_parked" TO "order""s";"#]
        );
    }
}
