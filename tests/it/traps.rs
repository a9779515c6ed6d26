//! Traps of table owners for outboxd's role in tables that it reads and writes: no trap works, or `check` names it.

use testkit::Daemon;

use crate::{
    parked::{PARK, parked_rows, until_parked},
    stage::{PATIENCE, Stage, eventually, say, until},
    trust::{CALLED, DELETE, called, findings},
};

const NAME: &str = "code of others";

/// Creates the function `odd`, which raises an error for outboxd's role when the planner calls it.
fn odd(role: &str) -> String {
    format!(
        "CREATE FUNCTION odd(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
         $$ BEGIN IF current_user = '{role}' THEN RAISE 'the planner called'; END IF; RETURN false; END $$;"
    )
}

/// An SQL connection as outboxd's role.
async fn victim(stage: &Stage) -> tokio_postgres::Client {
    let url = stage.postgres_url.replace("//postgres@", &format!("//{}@", stage.printed_role()));
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Proves that the trap works: the statement fails for the role.
async fn springs(stage: &Stage, statement: &str) {
    let error = victim(stage).await.batch_execute(statement).await.unwrap_err();
    assert!(format!("{error:?}").contains("the planner called"), "{error:?}");
}

/// The owner of the outbox table creates a table that looks like the one with the source's record.
#[tokio::test]
async fn lookalikes_of_the_outbox_owner_are_read_only_as_outboxd_makes_them() {
    let mut stage = Stage::shared("lookalikes").await;
    stage.source = PARK.to_owned();
    stage.with_printed_role().await;
    let (role, owner, slot) = (stage.printed_role(), format!("owner_{}", stage.name), stage.slot());
    stage
        .sql(&format!(
            "{CALLED}; {odd} CREATE ROLE {owner}; ALTER TABLE outbox OWNER TO {owner};
             CREATE FUNCTION note() RETURNS boolean LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.called VALUES ('note'); RETURN true; END $$;
             CREATE TYPE odd_slot AS (slot text);
             CREATE SCHEMA policy AUTHORIZATION {owner}; CREATE SCHEMA index AUTHORIZATION {owner};
             CREATE SCHEMA type AUTHORIZATION {owner}; CREATE SCHEMA heir AUTHORIZATION {owner};
             CREATE TABLE policy.outboxd_state (slot text, confirmed_flush pg_lsn, holder text, gap text, published_by text);
             CREATE TABLE index.outboxd_state (LIKE policy.outboxd_state);
             CREATE TABLE type.outboxd_parked (slot odd_slot, position text, cause text, reason text);
             CREATE TABLE heir.outboxd_state (LIKE policy.outboxd_state); CREATE TABLE heir.child () INHERITS (heir.outboxd_state);
             INSERT INTO policy.outboxd_state VALUES ('{slot}', '0/1'); INSERT INTO index.outboxd_state VALUES ('{slot}', '0/1');
             ALTER TABLE policy.outboxd_state ENABLE ROW LEVEL SECURITY; CREATE POLICY note ON policy.outboxd_state USING (note());
             CREATE INDEX odd_index ON index.outboxd_state (slot) WHERE odd('x'); CREATE INDEX ON heir.child (slot) WHERE odd('x');
             GRANT USAGE ON SCHEMA public, policy, index, type, heir TO public;
             GRANT SELECT ON policy.outboxd_state, index.outboxd_state, type.outboxd_parked, heir.outboxd_state TO public;
             ALTER TABLE policy.outboxd_state OWNER TO {owner}; ALTER TABLE index.outboxd_state OWNER TO {owner};
             ALTER TABLE type.outboxd_parked OWNER TO {owner}; ALTER TABLE heir.outboxd_state OWNER TO {owner};
             ALTER FUNCTION odd OWNER TO {owner}; ALTER FUNCTION note OWNER TO {owner}",
            odd = odd(&role),
        ))
        .await;
    springs(&stage, "SELECT FROM index.outboxd_state WHERE slot = 'a'").await;
    springs(&stage, "SELECT FROM heir.outboxd_state WHERE slot = 'a'").await;
    victim(&stage).await.batch_execute("SELECT count(*) FROM policy.outboxd_state").await.unwrap();
    assert_eq!(called(&stage).await, [("note".to_owned(), role)]);
    // This table would stop the source.
    victim(&stage).await.batch_execute("SELECT FROM type.outboxd_parked WHERE slot = 'a'").await.unwrap_err();
    stage.sql("DELETE FROM public.called").await;

    let mut daemon = stage.relay_as_printed_role().await;
    for command in [&["check"][..], &["status"], &["parked", "list", "--source", "orders"]] {
        let said = say(&daemon, command).await;
        assert_eq!(said.status, 0, "{command:?} {}{}", said.stdout, said.stderr);
    }
    assert!(daemon.sigterm(PATIENCE).await.success());
    assert_eq!(called(&stage).await, []);

    // A table as outboxd creates it is read, and a record is found in it.
    stage.sql("DELETE FROM public.outboxd_state; DROP INDEX index.odd_index").await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert!(said.stdout.contains("is in \"index\".\"outboxd_state\""), "{}", said.stdout);
}

#[tokio::test]
async fn check_names_a_function_in_the_key_of_a_partitioned_table() {
    let mut stage = Stage::shared("odd_key").await;
    stage.with_printed_role().await;
    let (role, tenant) = (stage.printed_role(), format!("tenant_{}", stage.name));
    stage
        .sql(&format!(
            "{} CREATE ROLE {tenant}; GRANT CREATE ON SCHEMA public TO {tenant}; ALTER FUNCTION odd OWNER TO {tenant};
             ALTER TABLE outbox RENAME TO before;
             CREATE TABLE outbox (LIKE before INCLUDING DEFAULTS) PARTITION BY LIST ((type = 'x' OR odd('x')));
             CREATE TABLE part PARTITION OF outbox DEFAULT; GRANT SELECT ON outbox TO {role}",
            odd(&role)
        ))
        .await;
    springs(&stage, "SELECT FROM outbox").await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    let [(line, cure)] = findings(&said.stdout, NAME)[..] else { panic!("{}", said.stdout) };
    let what = "a function that the partition key of \"public\".\"outbox\" calls may run as role";
    assert!(line.contains(what), "{line}");
    assert!(cure.contains("let the key call functions of pg_catalog only"), "{cure}");
}

/// The owner of a table may create child tables of it.
#[tokio::test]
async fn tables_that_inherit_from_its_own_are_not_read() {
    let mut stage = Stage::shared("own_heirs").await;
    stage.source = PARK.to_owned();
    stage.with_printed_role().await;
    stage
        .sql(&format!(
            "{} CREATE TABLE state_heir () INHERITS (outboxd_state); CREATE INDEX ON state_heir (slot) WHERE odd('x');
             CREATE TABLE parked_heir () INHERITS (outboxd_parked); CREATE INDEX ON parked_heir (slot) WHERE odd('x');
             CREATE TABLE outbox_heir () INHERITS (outbox); CREATE INDEX ON outbox_heir (id) WHERE odd('x')",
            odd(&stage.printed_role())
        ))
        .await;
    for table in ["outbox", "outboxd_state", "outboxd_parked"] {
        springs(&stage, &format!("SELECT FROM {table} WHERE tableoid = 1")).await;
    }
    stage.consume_only("OrderChanged").await;
    let mut daemon = Daemon::start(&stage.config());
    daemon.wait_ready(PATIENCE).await;
    let ids = [stage.write_unseen("a", "OrderCreated").await, stage.write_unseen("b", "OrderCreated").await];
    stage.write_row("c", 1, "OrderChanged").await;
    until_parked(&stage, 2).await;
    // Belongs to no outbox row, whatever its aggregate is.
    stage
        .sql(
            "INSERT INTO outbox_heir (aggregatetype, aggregateid, type, payload, seq, created_at)
             VALUES ('Order', 'a', 'OrderCreated', '1', 1000, now() + interval '1 day')",
        )
        .await;
    stage.bind("OrderCreated").await;
    let list = say(&daemon, &["parked", "list", "--source", "orders"]).await;
    assert!(list.status == 0 && list.stdout.contains(&ids[0]), "{}{}", list.stdout, list.stderr);
    for command in [
        &["parked", "requeue", "--source", "orders", &ids[0]][..],
        &["parked", "discard", "--source", "orders", &ids[1]],
        &["check"],
        &["status"],
    ] {
        let said = say(&daemon, command).await;
        assert_eq!(said.status, 0, "{command:?} {}{}", said.stdout, said.stderr);
    }
    assert!(daemon.sigterm(PATIENCE).await.success());
    assert!(!daemon.log().contains("the planner called"), "{}", daemon.log());
    let said = say(&daemon, &["teardown", "--source", "orders"]).await;
    assert_eq!(said.status, 0, "{}{}", said.stdout, said.stderr);
}

/// The role's DELETE runs whatever its cascade reaches, also by rules and deferred triggers.
#[tokio::test]
async fn check_names_what_a_cascade_reaches_and_it_is_as_the_check_says() {
    let mut stage = Stage::shared("cascades").await;
    stage.source = format!("{DELETE}{PARK}");
    stage.with_printed_role().await;
    let (role, owner) = (stage.printed_role(), format!("owner_{}", stage.name));
    stage
        .sql(&format!(
            "{CALLED}; CREATE ROLE {owner}; GRANT CREATE, USAGE ON SCHEMA public TO {owner};
             GRANT REFERENCES ON outbox, outboxd_parked TO {owner}; GRANT SELECT ON outboxd_parked TO {owner};
             SET ROLE {owner};
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.called VALUES (TG_NAME); RETURN NULL; END $$;
             CREATE TABLE by_rule (x text); CREATE TRIGGER behind_rule AFTER INSERT ON by_rule FOR EACH ROW EXECUTE FUNCTION note();
             CREATE TABLE by_before (x text); CREATE CONSTRAINT TRIGGER behind_before AFTER INSERT ON by_before
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
             CREATE FUNCTION writes() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.by_before VALUES ('x'); RETURN OLD; END $$;
             CREATE TABLE refers (id uuid REFERENCES outbox (id) ON DELETE CASCADE);
             CREATE RULE aside AS ON DELETE TO refers DO ALSO INSERT INTO public.by_rule VALUES ('x');
             CREATE TRIGGER before_it BEFORE DELETE ON refers FOR EACH ROW EXECUTE FUNCTION writes();
             CREATE TABLE kept (slot text, position text COLLATE \"C\",
                 FOREIGN KEY (slot, position) REFERENCES outboxd_parked ON DELETE CASCADE);
             CREATE TRIGGER on_discard AFTER DELETE ON kept FOR EACH ROW EXECUTE FUNCTION note(); RESET ROLE",
        ))
        .await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    let found = findings(&said.stdout, NAME);
    let expected = [
        ("trigger \"before_it\" of \"public\".\"refers\"", "or set cleanup.mode"),
        ("rule \"aside\" of \"public\".\"refers\"", "or set cleanup.mode"),
        (
            "trigger \"on_discard\" of \"public\".\"kept\"",
            "DROP TRIGGER \"on_discard\" ON \"public\".\"kept\"; or make sure",
        ),
    ];
    for (what, mends) in expected {
        let one = found.iter().find(|(line, _)| line.contains(what));
        assert!(one.is_some_and(|(_, cure)| cure.contains(mends)), "{what} {}", said.stdout);
    }
    assert_eq!(found.len(), expected.len(), "{}", said.stdout);

    // The check is right.
    stage.consume_only("OrderChanged").await;
    let mut daemon = Daemon::start(&stage.config());
    daemon.wait_ready(PATIENCE).await;
    stage
        .sql(
            "WITH written AS (INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
                              VALUES ('Order', 'a', 'OrderCreated', '1') RETURNING id)
             INSERT INTO refers SELECT id FROM written",
        )
        .await;
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    let by_role = |name: &str| (name.to_owned(), role.clone());
    eventually("clean-up removes the row", async || {
        let called = called(&stage).await;
        println!("{called:?}");
        called == [by_role("behind_before"), by_role("behind_rule")]
    })
    .await;
    stage.sql("INSERT INTO kept SELECT slot, position FROM outboxd_parked; DELETE FROM called").await;
    let said = say(&daemon, &["parked", "discard", "--all", "--source", "orders"]).await;
    assert_eq!(said.status, 0, "{}{}", said.stdout, said.stderr);
    assert_eq!(called(&stage).await, [by_role("on_discard")]);
    assert!(daemon.sigterm(PATIENCE).await.success());

    // Without clean-up the outbox row stays, and the parked row may still be removed.
    stage.source = PARK.to_owned();
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    let found = findings(&said.stdout, NAME);
    assert!(found.len() == 1 && found[0].0.contains("on_discard"), "{}", said.stdout);
}

/// A tenant created the schema first, and grants the role access.
#[tokio::test]
async fn check_names_an_owner_of_the_schema_of_its_tables_and_the_cure_is_enough() {
    let mut stage = Stage::shared("own_place").await;
    let tenant = format!("tenant_{}", stage.name);
    stage.sql(&format!("CREATE ROLE {tenant}; CREATE SCHEMA outboxd AUTHORIZATION {tenant}")).await;
    stage.source = "postgres.schema = \"outboxd\"\n".to_owned();
    stage.with_printed_role().await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    let [(line, cure)] = findings(&said.stdout, NAME)[..] else { panic!("{}", said.stdout) };
    let whose = format!(
        "any code that role \"{tenant}\" puts in the place of outboxd's tables in schema \"outboxd\""
    );
    assert!(line.contains(&whose), "{line}");
    let (statement, _) = cure.trim_start_matches("-> ").split_once(" or make sure").unwrap();
    assert!(statement.starts_with("ALTER SCHEMA \"outboxd\" OWNER TO"), "{cure}");
    stage.sql(statement).await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert!(said.status == 0 && findings(&said.stdout, NAME)[0].0.starts_with("OK"), "{}", said.stdout);

    // The schema of the outbox table is not outboxd's to own.
    stage.sql(&format!("ALTER SCHEMA public OWNER TO {tenant}")).await;
    stage.source.clear();
    stage.run_printed_sql().await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    let [(line, cure)] = findings(&said.stdout, NAME)[..] else { panic!("{}", said.stdout) };
    assert!(line.contains(&tenant) && cure.contains("set postgres.schema to"), "{line} {cure}");
}

/// The owner of the outbox table, or of its schema, replaces the table by a view.
#[tokio::test]
async fn a_view_in_the_place_of_the_outbox_table_is_not_read() {
    let mut stage = Stage::shared("view").await;
    stage.source = PARK.to_owned();
    stage.with_printed_role().await;
    let role = stage.printed_role();
    let mut daemon = Daemon::start(&stage.config());
    daemon.wait_ready(PATIENCE).await;
    let id = stage.write_unseen("a", "OrderCreated").await;
    until_parked(&stage, 1).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    stage
        .sql(&format!(
            "{CALLED}; {} CREATE FUNCTION note() RETURNS boolean LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.called VALUES ('note'); RETURN true; END $$;
             ALTER TABLE outbox RENAME TO before;
             CREATE VIEW outbox AS SELECT * FROM before WHERE note() AND (aggregateid <> '' OR odd('x'));
             GRANT SELECT ON outbox TO {role}",
            odd(&role)
        ))
        .await;
    springs(&stage, "EXPLAIN SELECT FROM ONLY outbox").await;
    // Without an order column.
    let unordered = "outbox.columns.sequence = \"\"\noutbox.columns.created_at = \"\"\n";
    stage.source = format!("{PARK}{unordered}outbox.unpublished = \"type = 'x'\"\n");
    let config = stage.config();
    for (command, said_so) in [
        (&["check"][..], false),
        (&["replay", "--source", "orders"], true),
        (&["parked", "requeue", &id, "--source", "orders"], true),
        (&["setup"], false),
    ] {
        let said = say(&Daemon::prepare(&config), command).await;
        let text = format!("{}{}", said.stdout, said.stderr);
        assert!(said.status == 1 && !text.contains("the planner called"), "{command:?} {text}");
        assert_eq!(text.contains("is not an ordinary or partitioned table"), said_so, "{command:?} {text}");
    }
    assert_eq!(called(&stage).await, []);
    assert_eq!(parked_rows(&stage.client().await).await.len(), 1);
}

/// The lock's number is public, and any session of the database may hold the lock.
#[tokio::test]
async fn whoever_holds_the_lock_on_parked_rows_is_named() {
    let mut stage = Stage::shared("parked_lock").await;
    stage.source = PARK.to_owned();
    stage.with_printed_role().await;
    let holder = stage.client().await;
    let held = "SET application_name = 'batch job'; SELECT pg_advisory_lock(hashtext('outboxd_parked'), hashtext('SLOT'))";
    holder.batch_execute(&held.replace("SLOT", &stage.slot())).await.unwrap();
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let daemon = Daemon::prepare(&stage.config());
    let discard = ["parked", "discard", "--all", "--source", "orders"];
    let said = say(&daemon, &discard).await;
    let expected = format!("SELECT pg_terminate_backend({pid});");
    assert!(
        said.status == 1 && said.stderr.contains("application \"batch job\", user \"postgres\""),
        "{}",
        said.stderr
    );
    assert!(said.stderr.contains(&expected), "{}", said.stderr);
    holder.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    assert_eq!(say(&daemon, &discard).await.status, 0);
}
