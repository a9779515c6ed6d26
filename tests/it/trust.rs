//! The database's owner and outboxd's role: functions, triggers and rules of the one that would run with the privileges of the
//! other.

use crate::{
    parked::PARK,
    stage::{PATIENCE, Stage, eventually, say, until},
};
use testkit::{Daemon, Postgres, PostgresOptions, postgres::psql, shared_rabbitmq};

pub(crate) const DELETE: &str = "cleanup.mode = \"delete\"\n";

/// A table that records calls with their role; everybody may write to it.
pub(crate) const CALLED: &str = "CREATE TABLE called (what text, by text NOT NULL DEFAULT current_user); GRANT INSERT ON called TO public";

pub(crate) async fn called(stage: &Stage) -> Vec<(String, String)> {
    let rows =
        stage.client().await.query("SELECT what, by FROM public.called ORDER BY what", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Lines of a check, each with the cure below it.
pub(crate) fn findings<'a>(stdout: &'a str, name: &str) -> Vec<(&'a str, &'a str)> {
    let lines: Vec<&str> = stdout.lines().collect();
    let found = lines.windows(2).filter(|pair| pair[0].contains(&format!("  {name}  ")));
    found.map(|pair| (pair[0].trim(), pair[1].trim())).collect()
}

/// A database's owner may create functions in `public`, and put `public` first in every session's search_path.
#[tokio::test]
async fn functions_in_public_are_not_called_in_place_of_those_of_pg_catalog() {
    let mut stage = Stage::shared("shadow").await;
    stage.source = format!("{DELETE}{PARK}");
    stage.with_printed_role().await;
    let shadows = [
        ("concat_ws", "text, oid, oid", "text", "$1, $2, $3"),
        ("current_setting", "text", "text", "$1"),
        ("set_config", "text, text, boolean", "text", "$1, $2, $3"),
        ("pg_is_in_recovery", "", "boolean", ""),
        ("pg_backend_pid", "", "integer", ""),
        ("pg_current_xact_id", "", "xid8", ""),
        ("clock_timestamp", "", "timestamptz", ""),
        ("now", "", "timestamptz", ""),
        ("has_schema_privilege", "oid, text", "boolean", "$1, $2"),
    ];
    let functions = shadows.map(|(name, arguments, result, given)| {
        format!(
            "CREATE FUNCTION public.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.called VALUES ('{name}'); RETURN pg_catalog.{name}({given}); END $$;"
        )
    });
    stage
        .sql(&format!(
            "{CALLED}; {} ALTER DATABASE \"{}\" SET search_path = public, pg_catalog",
            functions.concat(),
            stage.name
        ))
        .await;
    // The trap works.
    let role = format!("role_{}", stage.name);
    let url = stage.postgres_url.replace("//postgres@", &format!("//{role}@"));
    let (victim, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    victim
        .batch_execute("SELECT concat_ws(':', 1::oid, 2::oid), current_setting('wal_level')")
        .await
        .unwrap();
    let both = [("concat_ws".to_owned(), role.clone()), ("current_setting".to_owned(), role.clone())];
    assert_eq!(called(&stage).await, both);
    stage.sql("DELETE FROM public.called").await;

    // A superuser runs the script, the role does everything else: backlog, stream, a parked row, clean-up.
    stage.consume_only("OrderChanged").await;
    stage.write_row("a", 1, "OrderChanged").await;
    let mut daemon = Daemon::start(&stage.run_printed_sql().await);
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 2, "OrderChanged").await;
    stage.write_unseen("b", "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    let client = stage.client().await;
    eventually("confirmed rows are removed", async || {
        client.query_opt("SELECT FROM public.outbox", &[]).await.is_ok_and(|row| row.is_none())
    })
    .await;
    for command in
        [&["check"][..], &["status"], &["setup"], &["parked", "discard", "--all", "--source", "orders"]]
    {
        assert_eq!(say(&daemon, command).await.status, 0, "{command:?}");
    }
    assert!(daemon.sigterm(PATIENCE).await.success());
    assert_eq!(say(&daemon, &["teardown", "--source", "orders"]).await.status, 0);
    assert_eq!(called(&stage).await, []);
}

#[tokio::test]
async fn check_names_each_trigger_and_rule_that_runs_with_the_rights_of_its_role() {
    let mut stage = Stage::shared("triggers").await;
    stage.source = format!("{DELETE}{PARK}");
    stage.with_printed_role().await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert_eq!(said.status, 0);
    let [(quiet, _)] = findings(&said.stdout, "code of others")[..] else { panic!("{}", said.stdout) };
    assert!(quiet.starts_with("OK"), "{quiet}");

    stage.consume().await;
    stage
        .sql(&format!(
            "{CALLED}; CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.called VALUES (TG_NAME); RETURN NULL; END $$;
             CREATE TRIGGER \"on removal\" AFTER DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION note();
             CREATE TRIGGER of_the_application AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION note();
             CREATE TRIGGER on_record AFTER INSERT OR UPDATE ON outboxd_state FOR EACH STATEMENT EXECUTE FUNCTION note();
             CREATE TRIGGER switched_off AFTER UPDATE ON outboxd_state FOR EACH ROW EXECUTE FUNCTION note();
             ALTER TABLE outboxd_state DISABLE TRIGGER switched_off;
             CREATE FUNCTION odd(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 IS NULL; END';
             CREATE ROLE \"tenant_{0}\"; GRANT CREATE ON SCHEMA public TO \"tenant_{0}\"; ALTER FUNCTION odd OWNER TO \"tenant_{0}\";
             CREATE INDEX odd_index ON outbox (id) WHERE odd('x'); CREATE INDEX plain ON outbox (lower(type));
             CREATE RULE aside AS ON DELETE TO outboxd_parked DO ALSO SELECT 1",
            stage.name
        ))
        .await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert_eq!(said.status, 0);
    let found = findings(&said.stdout, "code of others");
    let role = format!("role_{}", stage.name);
    for ((line, cure), (what, mends)) in found.iter().zip([
        (
            format!("warning  code of others  trigger \"on removal\" of \"public\".\"outbox\" runs as role {role} when clean-up"),
            "DROP TRIGGER \"on removal\" ON \"public\".\"outbox\"; or set cleanup.mode = \"none\"",
        ),
        (
            format!("a function that index public.odd_index of \"public\".\"outbox\" calls may run as role {role} when outboxd reads"),
            "let the index call functions of pg_catalog only",
        ),
        (
            "rule \"aside\" of \"public\".\"outboxd_parked\" runs as".to_owned(),
            "DROP RULE \"aside\" ON \"public\".\"outboxd_parked\";",
        ),
        (
            "trigger \"on_record\" of \"public\".\"outboxd_state\" runs as".to_owned(),
            "DROP TRIGGER \"on_record\" ON \"public\".\"outboxd_state\";",
        ),
    ]) {
        assert!(line.contains(what.trim_start_matches("warning  code of others  ")), "{line}");
        assert!(line.starts_with("warning") && cure.contains(mends), "{line} {cure}");
    }
    assert_eq!(found.len(), 4, "{}", said.stdout);

    // The check is right.
    let mut daemon = Daemon::start(&stage.config());
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    eventually("the row is removed by the role", async || {
        called(&stage).await.contains(&("on removal".to_owned(), role.clone()))
    })
    .await;
    assert!(daemon.sigterm(PATIENCE).await.success());

    // Without clean-up, only its writers run anything on the outbox table.
    stage.source = PARK.to_owned();
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert_eq!(findings(&said.stdout, "code of others").len(), 3, "{}", said.stdout);
}

/// A tenant of the database creates tables like those of a source whose outbox table was moved.
#[tokio::test]
async fn tables_of_strangers_that_bear_its_names_are_not_read() {
    let mut stage = Stage::shared("strangers").await;
    stage.source = PARK.to_owned();
    stage.with_printed_role().await;
    let (role, tenant) = (format!("role_{}", stage.name), format!("tenant_{}", stage.name));
    stage
        .sql(&format!(
            "{CALLED}; CREATE ROLE {tenant}; CREATE SCHEMA evil AUTHORIZATION {tenant}; GRANT USAGE ON SCHEMA evil TO public;
             CREATE FUNCTION evil.note() RETURNS boolean LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.called VALUES ('policy'); RETURN true; END $$;
             CREATE FUNCTION evil.odd(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
                 $$ BEGIN IF current_user = '{role}' THEN RAISE 'the planner called'; END IF; RETURN false; END $$;
             CREATE TABLE evil.outboxd_state (slot text, confirmed_flush pg_lsn, holder text, gap text, published_by text);
             CREATE TABLE evil.outboxd_parked (slot text, position text, cause text, reason text);
             INSERT INTO evil.outboxd_state VALUES ('{slot}', '0/1'); INSERT INTO evil.outboxd_parked VALUES ('{slot}');
             ALTER TABLE evil.outboxd_state ENABLE ROW LEVEL SECURITY;
             CREATE POLICY note ON evil.outboxd_state USING (evil.note());
             CREATE INDEX ON evil.outboxd_parked (slot) WHERE evil.odd('x');
             GRANT SELECT ON ALL TABLES IN SCHEMA evil TO public;
             ALTER TABLE evil.outboxd_state OWNER TO {tenant}; ALTER TABLE evil.outboxd_parked OWNER TO {tenant};
             ALTER FUNCTION evil.note OWNER TO {tenant}; ALTER FUNCTION evil.odd OWNER TO {tenant}",
            slot = stage.slot()
        ))
        .await;
    // The traps work.
    let url = stage.postgres_url.replace("//postgres@", &format!("//{role}@"));
    let (victim, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    victim.batch_execute("SELECT count(*) FROM evil.outboxd_state").await.unwrap();
    let refused = victim.batch_execute("SELECT FROM evil.outboxd_parked WHERE slot = 'a'").await.unwrap_err();
    assert!(format!("{refused:?}").contains("the planner called"), "{refused:?}");
    assert_eq!(called(&stage).await, [("policy".to_owned(), role.clone())]);
    stage.sql("DELETE FROM public.called").await;

    stage.consume().await;
    let mut daemon = Daemon::start(&stage.config());
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    let commands = [&["check"][..], &["status"], &["setup"], &["parked", "list", "--source", "orders"]];
    for command in commands {
        let said = say(&daemon, command).await;
        let text = format!("{}{}", said.stdout, said.stderr);
        assert!(said.status == 0 && !text.contains("evil"), "{command:?} {text}");
    }
    assert!(daemon.sigterm(PATIENCE).await.success());
    // Up to PostgreSQL 15 a role may grant itself to another.
    stage.sql(&format!("GRANT {tenant} TO {role}")).await;
    for command in [&["check"][..], &["teardown", "--source", "orders"]] {
        let said = say(&daemon, command).await;
        let text = format!("{}{}", said.stdout, said.stderr);
        assert!(said.status == 0 && !text.contains("evil"), "{command:?} {text}");
    }
    assert_eq!(called(&stage).await, []);
}

/// A tenant of the database creates a schema like TimescaleDB's catalog.
#[tokio::test]
async fn a_catalog_of_a_stranger_that_bears_the_name_of_timescaledbs_is_not_read() {
    let mut stage = Stage::shared("hypertrap").await;
    stage.with_printed_role().await;
    let (role, tenant) = (format!("role_{}", stage.name), format!("tenant_{}", stage.name));
    stage
        .sql(&format!(
            "{CALLED}; CREATE ROLE {tenant}; CREATE SCHEMA _timescaledb_catalog AUTHORIZATION {tenant};
             GRANT USAGE ON SCHEMA _timescaledb_catalog TO public;
             CREATE FUNCTION _timescaledb_catalog.note() RETURNS name LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.called VALUES ('view'); RETURN 'outbox'; END $$;
             ALTER FUNCTION _timescaledb_catalog.note OWNER TO {tenant}; CREATE EXTENSION citext"
        ))
        .await;
    let view = format!(
        "CREATE VIEW _timescaledb_catalog.hypertable AS SELECT name 'public' AS schema_name, _timescaledb_catalog.note() AS table_name;
         ALTER VIEW _timescaledb_catalog.hypertable OWNER TO {tenant}"
    );
    let table = format!(
        "CREATE TABLE _timescaledb_catalog.hypertable (x int);
         ALTER TABLE _timescaledb_catalog.hypertable OWNER TO {tenant}"
    );
    // The schema may even belong to an extension of that name that the tenant owns.
    let member = format!(
        "{table}; UPDATE pg_extension SET extname = 'timescaledb' WHERE extname = 'citext';
         ALTER EXTENSION timescaledb ADD TABLE _timescaledb_catalog.hypertable"
    );
    let mut was = "";
    for (trap, drops) in [(view, "VIEW"), (table, "TABLE"), (member, "")] {
        stage.sql(was).await;
        was = match drops {
            "VIEW" => "DROP VIEW _timescaledb_catalog.hypertable",
            _ => "DROP TABLE _timescaledb_catalog.hypertable",
        };
        stage.sql(&format!("{trap}; GRANT SELECT ON _timescaledb_catalog.hypertable TO public")).await;
        if drops == "VIEW" {
            // The trap works.
            let url = stage.postgres_url.replace("//postgres@", &format!("//{role}@"));
            let (victim, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            victim
                .batch_execute("SELECT FROM _timescaledb_catalog.hypertable WHERE table_name = 'outbox'")
                .await
                .unwrap();
            assert_eq!(called(&stage).await, [("view".to_owned(), role.clone())]);
            stage.sql("DELETE FROM public.called").await;
        }
        let mut daemon = Daemon::start(&stage.config());
        daemon.wait_ready(PATIENCE).await;
        for command in [&["check"][..], &["status"], &["setup"]] {
            let said = say(&daemon, command).await;
            let text = format!("{}{}", said.stdout, said.stderr);
            assert!(said.status == 0 && !text.contains("hypertable"), "{drops} {command:?} {text}");
        }
        assert!(daemon.sigterm(PATIENCE).await.success());
        let said = say(&daemon, &["teardown", "--source", "orders"]).await;
        assert_eq!(said.status, 0, "{}{}", said.stdout, said.stderr);
        assert_eq!(called(&stage).await, []);
    }
}

#[tokio::test]
async fn check_names_what_else_of_others_runs_on_its_tables() {
    let mut stage = Stage::shared("others").await;
    stage.source = format!("{DELETE}{PARK}");
    stage.with_printed_role().await;
    let tenant = format!("tenant_{}", stage.name);
    stage
        .sql(&format!(
            "CREATE ROLE {tenant}; GRANT CREATE ON SCHEMA public TO {tenant};
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE FUNCTION odd(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 IS NULL; END';
             CREATE FUNCTION fine(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 IS NULL; END';
             CREATE INDEX odd_index ON outbox (id) WHERE odd('x'); CREATE INDEX fine_index ON outbox (id) WHERE fine('x');
             CREATE STATISTICS odd_statistics ON (odd(type)) FROM outbox;
             ALTER FUNCTION odd OWNER TO {tenant}; ALTER EXTENSION plpgsql ADD FUNCTION odd(text);
             CREATE TABLE refers (id uuid REFERENCES outbox (id) ON DELETE CASCADE);
             CREATE TRIGGER on_cascade AFTER DELETE ON refers FOR EACH ROW EXECUTE FUNCTION note();
             CREATE TRIGGER as_owner BEFORE DELETE ON refers FOR EACH ROW EXECUTE FUNCTION note();
             CREATE RULE aside AS ON DELETE TO refers DO ALSO SELECT 1;
             CREATE DOMAIN odd_reason AS text; CREATE INDEX odd_cast ON outboxd_parked ((reason::odd_reason));
             ALTER TABLE outboxd_parked ADD loud text GENERATED ALWAYS AS (upper(cause)) STORED;
             CREATE DOMAIN odd_text AS text; ALTER TABLE outboxd_state ALTER gap TYPE odd_text;
             ALTER TABLE outboxd_state ADD CONSTRAINT odd_check CHECK (version > 0);
             ALTER TABLE outboxd_state ENABLE ROW LEVEL SECURITY; CREATE POLICY all_rows ON outboxd_state USING (true);
             ALTER TABLE outboxd_parked ALTER parked_at SET DEFAULT now(), ALTER cause SET DEFAULT 'a';
             ALTER TABLE outboxd_parked OWNER TO {tenant}"
        ))
        .await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    let found = findings(&said.stdout, "code of others");
    let expected = [
        ("a function that index public.odd_index of ", "let the index call"),
        ("a function that statistics public.odd_statistics of ", "DROP STATISTICS public.odd_statistics;"),
        ("trigger \"on_cascade\" of \"public\".\"refers\"", "DROP TRIGGER \"on_cascade\""),
        ("trigger \"as_owner\" of \"public\".\"refers\"", "DROP TRIGGER \"as_owner\""),
        ("rule \"aside\" of \"public\".\"refers\"", "DROP RULE \"aside\""),
        ("a function that index public.odd_cast of \"public\".\"outboxd_parked\"", "let the index call"),
        ("generated column \"loud\" of \"public\".\"outboxd_parked\"", "ALTER \"loud\" DROP EXPRESSION;"),
        ("the type of column \"gap\" of \"public\".\"outboxd_state\"", "give the column"),
        ("CHECK constraint \"odd_check\" of ", "DROP CONSTRAINT \"odd_check\";"),
        ("policy \"all_rows\" of \"public\".\"outboxd_state\"", "DROP POLICY \"all_rows\""),
        ("the default of column \"parked_at\" of ", "SET DEFAULT clock_timestamp();"),
        ("the default of column \"cause\" of ", "ALTER \"cause\" DROP DEFAULT;"),
        ("adds to \"public\".\"outboxd_parked\", which it owns,", "\"public\".\"outboxd_parked\" OWNER TO"),
    ];
    for (what, mends) in expected {
        let one = found.iter().find(|(line, _)| line.contains(what));
        assert!(one.is_some_and(|(_, cure)| cure.contains(mends)), "{what} {}", said.stdout);
    }
    assert_eq!(found.len(), expected.len(), "{}", said.stdout);

    // The outbox table is a partition itself, and a view replaces a table.
    stage
        .sql(
            "DROP TABLE refers; CREATE TABLE whole (LIKE outbox) PARTITION BY LIST (type);
             ALTER TABLE whole ATTACH PARTITION outbox DEFAULT;
             CREATE TRIGGER on_each AFTER DELETE ON whole FOR EACH ROW EXECUTE FUNCTION note();
             ALTER TABLE outboxd_parked RENAME TO kept; CREATE VIEW outboxd_parked AS SELECT * FROM kept",
        )
        .await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    let found = findings(&said.stdout, "code of others");
    for (what, mends) in [
        ("trigger \"on_each\" of \"public\".\"whole\"", "DROP TRIGGER \"on_each\" ON \"public\".\"whole\";"),
        ("behind \"public\".\"outboxd_parked\", which is not an ordinary table", "rename it"),
    ] {
        let one = found.iter().find(|(line, _)| line.contains(what));
        assert!(one.is_some_and(|(_, cure)| cure.contains(mends)), "{what} {}", said.stdout);
    }
}

/// The schema exists, and nothing else.
#[tokio::test]
async fn the_printed_statements_let_the_role_into_the_schema_of_its_tables() {
    let mut stage = Stage::shared("no_usage").await;
    stage.with_printed_role().await;
    let role = stage.printed_role();
    stage.sql("CREATE SCHEMA dba; CREATE SCHEMA third; DROP TABLE public.outboxd_state").await;
    stage.source = "postgres.schema = \"dba\"\n".to_owned();
    for (before, line) in [
        ("SELECT 1".to_owned(), "does not exist, and role"),
        (format!("REVOKE USAGE ON SCHEMA dba FROM {role}"), "may not read and write table"),
    ] {
        stage.sql(&before).await;
        mended(&stage, line, "dba").await;
    }
    let mut daemon = Daemon::start(&stage.config());
    daemon.wait_ready(PATIENCE).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    stage.source = "postgres.schema = \"third\"\n".to_owned();
    mended(&stage, "not in schema \"third\"", "third").await;
}

/// Checks that the check of the records fails with that line, and that its cure is enough.
async fn mended(stage: &Stage, expected: &str, schema: &str) {
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert_eq!(said.status, 1, "{}", said.stdout);
    let [(line, cure)] = findings(&said.stdout, "records of slots")[..] else { panic!("{}", said.stdout) };
    assert!(line.contains(expected), "{line}");
    assert!(cure.contains(&format!("GRANT USAGE ON SCHEMA \"{schema}\" TO")), "{cure}");
    stage.sql(cure.trim_start_matches("-> ")).await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert_eq!(said.status, 0, "{}", said.stdout);
}

#[tokio::test]
async fn tables_of_its_own_lie_in_the_schema_that_the_configuration_names() {
    let mut stage = Stage::shared("own_schema").await;
    let place = format!("{PARK}postgres.schema = \"Own \\\"tables\\\"\"\n");
    stage.source = place.clone();
    let client = stage.client().await;
    let tables = async || {
        let query = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE c.relname LIKE 'outboxd\\_%' AND c.relkind = 'r' ORDER BY 1";
        let rows = client.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    // A role that may create a schema creates it; here a superuser.
    stage.consume_only("OrderChanged").await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert!(said.status == 0 && said.stdout.contains("outboxd_state will be created"), "{}", said.stdout);
    let mut daemon = stage.relay().await;
    stage.write_unseen("b", "OrderCreated").await;
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    let there = ["Own \"tables\".outboxd_parked", "Own \"tables\".outboxd_state"];
    assert_eq!(tables().await, there);
    assert!(daemon.sigterm(PATIENCE).await.success());

    // Another schema is the same source: the record is found in the old schema, and the statements move it. The printed role sees
    // it.
    stage.source = format!("{PARK}postgres.schema = \"elsewhere\"\n");
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert_eq!(said.status, 1);
    let [(line, cure)] = findings(&said.stdout, "records of slots")[..] else { panic!("{}", said.stdout) };
    assert!(line.contains("not in schema \"elsewhere\" (postgres.schema)"), "{line}");
    assert!(
        cure.contains("CREATE SCHEMA IF NOT EXISTS \"elsewhere\"")
            && cure.contains("SET SCHEMA \"elsewhere\""),
        "{cure}"
    );
    stage.sql(cure.trim_start_matches("-> ")).await;
    assert_eq!(tables().await, ["elsewhere.outboxd_parked", "elsewhere.outboxd_state"]);
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert!(said.status == 0 && said.stdout.contains("the slot is the same as before"), "{}", said.stdout);

    // The printed role, in a schema of the DBA's.
    let mut stage = Stage::shared("own_schema_printed").await;
    stage.source = place;
    stage.with_printed_role().await;
    stage.consume_only("OrderChanged").await;
    let mut daemon = Daemon::start(&stage.config());
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 1, "OrderChanged").await;
    stage.write_unseen("b", "OrderCreated").await;
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    stage.verdict().await.assert_delivered(0);
    let said = say(&daemon, &["check"]).await;
    assert_eq!(said.status, 0);
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// The casts and constraints of the database's owner do not run on a value that outboxd compares.
#[tokio::test]
async fn casts_and_domains_of_the_table_run_nothing() {
    let mut stage = Stage::shared("casts").await;
    stage
        .sql(&format!(
            "{CALLED}; CREATE TYPE kind AS ENUM ('Order');
             CREATE FUNCTION kind_text(kind) RETURNS text LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.called VALUES ('cast'); RETURN 'Order'; END $$;
             CREATE CAST (kind AS text) WITH FUNCTION kind_text(kind);
             CREATE FUNCTION fits(bigint) RETURNS boolean LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.called VALUES ('domain'); RETURN true; END $$;
             CREATE DOMAIN number AS bigint CHECK (fits(VALUE));
             ALTER TABLE outbox ALTER COLUMN aggregatetype TYPE kind USING aggregatetype::kind,
                 ADD COLUMN IF NOT EXISTS seq bigint GENERATED ALWAYS AS IDENTITY;
             ALTER TABLE outbox ALTER COLUMN seq DROP IDENTITY IF EXISTS; ALTER TABLE outbox ALTER COLUMN seq TYPE number"
        ))
        .await;
    stage.source = PARK.to_owned();
    stage.with_printed_role().await;
    stage.sql("GRANT INSERT ON called TO public").await;
    stage.consume_only("OrderChanged").await;
    let mut daemon = Daemon::start(&stage.config());
    daemon.wait_ready(PATIENCE).await;
    for event in ["OrderCreated", "OrderChanged"] {
        stage
            .sql(&format!(
                "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, seq) VALUES ('Order', 'a', '{event}', '1',
                 1 + (SELECT count(*) FROM outbox))"
            ))
            .await;
    }
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    stage.sql("DELETE FROM called").await;
    let said = say(&daemon, &["replay", "--source", "orders", "--aggregate", "Order/a"]).await;
    assert!(said.status == 0 && said.stdout.contains("confirmed: 1"), "{}{}", said.stdout, said.stderr);
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let said = say(&daemon, &["parked", "requeue", "--all", "--source", "orders"]).await;
    println!("{}{}", said.stdout, said.stderr);
    assert!(format!("{}{}", said.stdout, said.stderr).contains("a later row of its aggregate"));
    inbox.stays_empty().await;
    assert_eq!(called(&stage).await, []);
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn the_compose_example_relays_as_a_role_of_its_own() {
    let server = Postgres::start(PostgresOptions::default()).await;
    let mut stage = Stage::on("compose", &server, shared_rabbitmq().await).await;
    stage.sql("DROP TABLE outbox").await;
    let (url, script) = (stage.postgres_url.clone(), include_str!("../../docker/outbox.sql"));
    tokio::task::spawn_blocking(move || psql(&url, script)).await.unwrap();
    let example = include_str!("../../docker/outboxd.toml");
    assert!(!example.contains("postgres:secret"));
    let config = example
        .replace("[admin]\nlisten = \"0.0.0.0:9464\"\n", "")
        .replace("@postgres:5432/orders", &format!("@127.0.0.1:{}/{}", server.port(), stage.name))
        .replace("amqp://guest:guest@rabbitmq:5672/%2f", &stage.amqp_url);
    stage.consume().await;
    let said = say(&Daemon::prepare(&config), &["check"]).await;
    assert_eq!(said.status, 0);
    let mut daemon = Daemon::start(&config);
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    let rights = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls FROM pg_roles WHERE rolname = 'outboxd'";
    assert!(!stage.client().await.query_one(rights, &[]).await.unwrap().get::<_, bool>(0));
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// With only `pg_catalog` in the search_path, `=` between a citext and a literal is that of text.
#[tokio::test]
async fn a_condition_that_may_mean_other_operators_is_said_and_clean_up_waits() {
    const NAME: &str = "selection of rows";
    let mut stage = Stage::shared("other_operators").await;
    stage
        .sql(
            "CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('glad', 'sad');
             ALTER TABLE outbox ADD status citext, ADD mood mood, ADD note citext",
        )
        .await;
    stage.consume().await;
    let doubt = "outbox.unpublished uses a value of type public.citext. outboxd searches pg_catalog only and does not find the operators of that type";
    for (condition, is_doubtful) in [
        ("status = 'New'", true),
        ("note OPERATOR(public.=) 'x' OR status = 'New'", true),
        ("status OPERATOR(public.=) 'New' OR note IS NULL OR mood = 'glad' OR mood IN ('sad')", false),
        ("status::text = 'New'", false),
    ] {
        stage.source = format!("{DELETE}outbox.unpublished = \"{condition}\"\n");
        let mut daemon = stage.relay_as_printed_role().await;
        let said = say(&daemon, &["check"]).await;
        let found = findings(&said.stdout, NAME);
        assert_eq!((found.len(), said.status), (1, 0), "{condition}: {}", said.stdout);
        let (line, cure) = found[0];
        assert_eq!(line.starts_with("warning"), is_doubtful, "{condition}: {line}");
        assert_eq!(
            line.contains(doubt) && line.contains("clean-up removes no rows"),
            is_doubtful,
            "{condition}: {line}"
        );
        assert_eq!(cure.contains("status OPERATOR(public.=)"), is_doubtful, "{condition}: {cure}");
        let shown = until(&daemon, "orders", |shown| shown["state"] == "streaming").await;
        assert_eq!(
            shown["cleanup_off"].as_str().is_some_and(|why| why.contains(doubt)),
            is_doubtful,
            "{shown}"
        );
        assert_eq!(daemon.log().contains(doubt), is_doubtful, "{condition}");
        assert!(daemon.sigterm(PATIENCE).await.success());
    }
}

/// The server's own form of a condition decides, however the condition is written.
#[tokio::test]
async fn a_condition_is_doubted_by_what_the_server_makes_of_it() {
    const NAME: &str = "selection of rows";
    let mut stage = Stage::shared("meaning").await;
    stage
        .sql(
            "CREATE EXTENSION citext; CREATE DOMAIN kind AS public.citext;
             ALTER TABLE outbox ADD status citext, ADD tags citext[], ADD txt text, ADD kind kind, ADD \"a\"\"b\" citext,
                 ADD seen timestamptz",
        )
        .await;
    stage.with_printed_role().await;
    for (condition, doubtful) in [
        ("txt::public.citext = 'New'", true),
        ("('New' = status)::int = 1", true),
        ("CAST('New' = status AS boolean)", true),
        ("NULLIF('New', status) IS NULL", true),
        ("'New' = ANY (tags)", true),
        ("'New' = ANY (tags::text[])", false),
        ("tags @> '{New}'", false),
        ("CASE status WHEN 'New' THEN true ELSE false END", true),
        ("status NOT LIKE 'New%'", true),
        ("kind = 'New'", true),
        ("kind OPERATOR(public.=) 'New'", false),
        ("\"a\"\"b\" = 'New'", true),
        ("U&\"st\\0061tus\" = 'New'", true),
        ("(SELECT o.status FROM public.outbox o LIMIT 1) = 'New'", true),
        ("status OPERATOR(public.=) 'New' /* = */ AND NOT (status IS NULL)", false),
        ("upper(status::text) = 'NEW' AND txt = 'x'", false),
        ("seen IS NULL", false),
    ] {
        stage.source = format!("{DELETE}outbox.unpublished = '''{condition}'''\n");
        let config = stage.run_printed_sql().await;
        let said = say(&Daemon::prepare(&config), &["check"]).await;
        let [(line, cure)] = findings(&said.stdout, NAME)[..] else { panic!("{condition}: {}", said.stdout) };
        assert_eq!(line.starts_with("warning"), doubtful, "{condition}: {line}");
        let says = line.contains("a value of type public.citext. outboxd searches pg_catalog only and does not find the operators of that type");
        assert_eq!(says && cure.contains("OPERATOR(public.=)"), doubtful, "{condition}: {line} {cure}");
    }
    let views = "SELECT FROM pg_class WHERE relname = 'outboxd_condition'";
    assert!(stage.client().await.query(views, &[]).await.unwrap().is_empty());

    // Without the privilege to ask, outboxd assumes the worst, and the cure is enough.
    let (name, role) = (stage.name.clone(), stage.printed_role());
    stage.sql(&format!("REVOKE TEMPORARY ON DATABASE \"{name}\" FROM {role}")).await;
    for (condition, doubtful) in [("seen IS NULL", false), ("seen::date IS NULL", true)] {
        stage.source = format!("{DELETE}outbox.unpublished = '''{condition}'''\n");
        let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
        let [(line, cure)] = findings(&said.stdout, NAME)[..] else { panic!("{condition}: {}", said.stdout) };
        assert_eq!(line.contains("cannot tell"), doubtful, "{condition}: {line}");
        assert_eq!(line.contains("clean-up removes no rows until then"), doubtful, "{condition}: {line}");
        if doubtful {
            stage.sql(cure.trim_start_matches("-> ")).await;
            let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
            assert!(findings(&said.stdout, NAME)[0].0.starts_with("OK"), "{}", said.stdout);
        }
    }
}
