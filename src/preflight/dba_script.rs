//! The SQL script that creates what one source needs of its database: a least-privilege role, the publication, the slot. For a DBA.
//! Pure text. Optional statements are comments. The script can be run again, and leaves existing objects as they are.
//!
//! The publication belongs to the role that runs the script, not to outboxd's: only `teardown` would need the ownership, and an owner
//! could remove rows from the publication unseen.

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

/// Placeholder of the role's password, which the DBA chooses.
const PASSWORD: &str = "CHANGE ME";

/// The creator of the slot, which decides whether earlier rows of the table are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotMaker {
    /// `run` publishes the rows and then creates the slot. With an existing slot it would take the rows for published.
    Run,
    /// The script creates the slot, and earlier rows are not published.
    Script,
}

/// The script. It is valid as it stands for an ordinary table. The statement for a partitioned one is a comment.
pub fn script(database: &SourceDatabase, columns: &ColumnNames, slot: SlotMaker) -> String {
    let role = identifier(database.endpoint.user());
    let name = identifier(database.endpoint.database());
    let table = database.table.quoted();
    let publication = |kind| {
        let create = publication::create_sql(&database.publication, &database.table, kind);
        let there = format!("SELECT FROM pg_publication WHERE pubname = {}", literal(&database.publication));
        block(&format!("IF NOT EXISTS ({there}) THEN\n    {create};\n  END IF;"))
    };
    // A statement of its own, outside of a block: the server creates no slot in a transaction that has written.
    let create_slot = format!(
        "{} WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {});",
        create_slot_sql(&database.slot, database.failover),
        literal(&database.slot)
    );
    let kept = if database.cleanup.is_some() {
        format!(
            "-- If the table has rows when `run` first uses a slot created here, they may be unpublished. Then\n\
             -- clean-up (cleanup.mode = \"delete\") removes no rows until you declare that all are published, or need not be:\n{}",
            comment(&(record::declare_published_sql(database) + ";"))
        )
    } else {
        String::new()
    };
    let create_slot = match slot {
        SlotMaker::Script => format!(
            "-- The slot. Rows older than the slot are not published. PostgreSQL first waits for the open transactions.\n\
             {kept}{create_slot}\n"
        ),
        SlotMaker::Run => format!(
            "-- `run` creates the slot after it has published the rows that are in the table (backlog = \"publish\").\n\
             -- Create it here only if those rows are not to be published:\n{kept}{}",
            comment(&create_slot)
        ),
    };
    let parked = if database.parks {
        format!(
            "-- Parked rows (delivery.on_unroutable, on_invalid and on_nack), until `outboxd parked` requeues or discards them.\n\
             {};\n{};\n\n",
            parked_table::create_table_sql(database),
            parked_table::grant_sql(database, database.endpoint.user()),
        )
    } else {
        String::new()
    };
    format!(
        "-- The server, unless wal_level is logical already. Restart it afterwards:\n\
         --   ALTER SYSTEM SET wal_level = logical;\n\
         {managed}\
         -- pg_hba.conf needs an ordinary line for the role and the database. A line for `replication` is not needed.\n\
         \n\
         -- Functions are searched in pg_catalog only, so that none of another owner is called.\n\
         SET search_path = pg_catalog, pg_temp;\n\
         \n\
         -- The role. An existing role keeps its password.\n\
         {make_role}\n\
         GRANT CONNECT ON DATABASE {name} TO {role};\n\
         GRANT USAGE ON SCHEMA {schema} TO {role};\n\
         GRANT SELECT ON {table} TO {role};\n\
         {remove}\
         {temporary}\
         \n\
         -- The publication. Create it before the slot, as the table's owner or a superuser, who stays its owner.\n\
         -- `outboxd teardown` prints the statement that drops it.\n\
         {ordinary}\n\
         -- For a partitioned table instead:\n\
         {partitioned}\
         {no_heirs}\
         \n\
         {own_schema}\
         -- outboxd's record of its slot, by which it notices a lost or replaced slot.\n\
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
        // A temporary view shows how the server understands the condition.
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
                "-- A schema for outboxd's own tables (postgres.schema), in which no other role creates triggers.\n{};\n\n",
                make_schema_sql(&database.schema, database.endpoint.user())
            ),
        },
        ordinary = publication(TableKind::Ordinary),
        partitioned = comment(&publication(TableKind::Partitioned)),
        records = record::create_table_sql(database),
        grant = record::grant_sql(database, database.endpoint.user()),
    )
}

/// The ways of managed services to what otherwise needs a superuser.
fn managed(role: &str) -> String {
    let first = "A managed service may refuse that, or REPLICATION for the role below. Its own way is:";
    let notes = Hosting::notes(role).map(|note| format!("  {note}"));
    std::iter::once(first.to_owned()).chain(notes).map(|line| comment(&line)).collect()
}

/// The statements that replace a table whose rows lie in child tables by one that PostgreSQL itself partitions.
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
        "-- Rows stored in tables that inherit from the outbox table, such as chunks of a TimescaleDB hypertable, are never published.\n\
         -- Replace such a table by one that PostgreSQL itself partitions:\n\
         -- 1. Stop the writers, and wait until outboxd has confirmed everything. Then run:\n\
         {}-- 2. Continue each identity or serial column after the old one. Consumers take repeated ids for duplicates:\n\
         --   SELECT setval(pg_get_serial_sequence(NEW TABLE, COLUMN), (SELECT max(COLUMN) FROM OLD TABLE));\n\
         -- 3. Give the new table the application's GRANTs, constraints, indexes and triggers, the GRANTs above, and partitions\n\
         --    ahead of time.\n\
         -- 4. If there is a slot, run `outboxd recover`. Rows of the inheriting tables were never published. To publish them, insert\n\
         --    them into the new table.\n",
        comment(&statements)
    )
}

/// Turns text into comment lines. A quoted name may contain line breaks, which would end a comment.
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
            // A session that includes the script (`\i`) keeps its own path.
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
