//! Child tables and partitions: those whose rows are not sent, and rows that move between partitions.

use crate::{
    row_order::finding,
    stage::{PATIENCE, Stage, say, until, until_state},
};
use testkit::Daemon;

fn insert(payload: &str) -> String {
    format!(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', 'E', '{payload}')"
    )
}

/// A child table may be created long after the start, for instance each month.
#[tokio::test]
async fn tables_that_inherit_are_said_whenever_they_come_and_the_printed_statements_help() {
    let stage = Stage::shared("heirs_said").await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let mut daemon = stage.relay().await;
    stage.sql(&insert("1")).await;
    assert_eq!(inbox.bodies(1).await, ["1"]);
    assert!(until(&daemon, "orders", |_| true).await["unpublished_tables"].is_null());

    stage.sql("CREATE TABLE january () INHERITS (outbox); CREATE TABLE february () INHERITS (january)").await;
    let said = |shown: &serde_json::Value| {
        shown["unpublished_tables"].as_str().is_some_and(|text| text.contains("2 tables inherit"))
    };
    until(&daemon, "orders", said).await;
    assert!(daemon.log().contains("2 tables inherit from"), "{}", daemon.log());
    assert!(say(&daemon, &["status"]).await.stdout.contains("public.january"));
    let check = say(&daemon, &["check"]).await;
    let warning = finding(&check, "child tables");
    assert!(check.status == 0 && warning.contains("public.february, public.january"), "{}", check.stdout);
    assert!(warning.contains("setup --print-sql"), "{warning}");
    // Each start logs the warning.
    assert!(daemon.sigterm(PATIENCE).await.success());
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    assert!(daemon.log().matches("2 tables inherit from").count() >= 2, "{}", daemon.log());

    let script = say(&daemon, &["setup", "--print-sql"]).await.stdout;
    let (_, statements) = script.split_once("-- BEGIN;").expect("statements for a table with heirs");
    let (statements, _) = statements.split_once("-- COMMIT;").expect("an end");
    stage.sql(&statements.replace("\n-- ", "\n")).await;
    until_state(&daemon, "orders", "halted").await;
    assert_eq!(say(&daemon, &["recover", "--source", "orders"]).await.status, 0);
    until_state(&daemon, "orders", "streaming").await;
    stage.sql(&insert("2")).await;
    assert_eq!(inbox.bodies(1).await, ["2"]);
    until(&daemon, "orders", |shown| shown["unpublished_tables"].is_null()).await;
    let check = say(&daemon, &["check"]).await;
    assert!(check.status == 0 && !check.stdout.contains("child tables"), "{}", check.stdout);
}

/// The tests have no TimescaleDB, but tables like its catalog.
#[tokio::test]
async fn a_hypertable_and_partitions_that_are_not_in_wal_are_warned_of() {
    let stage = Stage::shared("hypertable").await;
    stage
        .sql(
            "CREATE EXTENSION citext; UPDATE pg_extension SET extname = 'timescaledb' WHERE extname = 'citext';
             CREATE SCHEMA _timescaledb_catalog;
             CREATE TABLE _timescaledb_catalog.hypertable (schema_name name, table_name name);
             ALTER EXTENSION timescaledb ADD TABLE _timescaledb_catalog.hypertable;
             INSERT INTO _timescaledb_catalog.hypertable VALUES ('public', 'outbox')",
        )
        .await;
    let daemon = Daemon::prepare(&stage.config());
    let said = say(&daemon, &["check"]).await;
    let warning = finding(&said, "child tables");
    assert!(warning.contains("warning") && warning.contains("hypertable"), "{}", said.stdout);

    stage
        .sql(
            "DROP EXTENSION timescaledb; DROP SCHEMA _timescaledb_catalog; ALTER TABLE outbox RENAME TO before;
             CREATE TABLE outbox (LIKE before INCLUDING DEFAULTS) PARTITION BY RANGE (created_at);
             CREATE TABLE logged PARTITION OF outbox FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
             CREATE UNLOGGED TABLE fast PARTITION OF outbox DEFAULT",
        )
        .await;
    let said = say(&daemon, &["check"]).await;
    let warning = finding(&said, "child tables");
    assert!(warning.contains("foreign or unlogged (public.fast)"), "{}", said.stdout);
}

#[tokio::test]
async fn a_partition_key_that_may_change_is_warned_of() {
    let stage = Stage::shared("keys").await;
    let daemon = Daemon::prepare(&stage.config());
    stage.sql("ALTER TABLE outbox ADD status text, ADD day date NOT NULL DEFAULT CURRENT_DATE; ALTER TABLE outbox RENAME TO before").await;
    for (keys, changing) in [
        ("RANGE (created_at)", None),
        ("HASH (id)", None),
        ("RANGE (day, seq)", None),
        ("LIST (status)", Some("is partitioned by status:")),
        ("LIST (upper(status))", Some("is partitioned by status:")),
    ] {
        stage
            .sql(&format!(
                "DROP TABLE IF EXISTS outbox; CREATE TABLE outbox (LIKE before INCLUDING DEFAULTS) PARTITION BY {keys}"
            ))
            .await;
        let found = finding(&say(&daemon, &["check"]).await, "partitions");
        match changing {
            None => assert!(found.contains("OK"), "{keys}: {found}"),
            Some(what) => {
                assert!(found.contains("warning") && found.contains(what), "{keys}: {found}");
                assert!(found.contains("such as created_at"), "{keys}: {found}");
            }
        }
    }
    // A partition of a partition counts, too.
    stage
        .sql(
            "DROP TABLE outbox; CREATE TABLE outbox (LIKE before INCLUDING DEFAULTS) PARTITION BY RANGE (created_at);
             CREATE TABLE part PARTITION OF outbox DEFAULT PARTITION BY LIST (status)",
        )
        .await;
    let found = finding(&say(&daemon, &["check"]).await, "partitions");
    assert!(found.contains("status"), "{found}");
}

/// Statements as in pg_partman's `partition_data_proc`: through a temporary table, in one transaction.
fn out_of_the_default(day: u32) -> String {
    format!(
        "BEGIN;
         CREATE TEMP TABLE moving (LIKE outbox) ON COMMIT DROP;
         WITH rows AS (DELETE FROM waiting WHERE created_at < '2026-01-0{next}' RETURNING *) INSERT INTO moving SELECT * FROM rows;
         CREATE TABLE day_{day} PARTITION OF outbox FOR VALUES FROM ('2026-01-0{day}') TO ('2026-01-0{next}');
         WITH rows AS (DELETE FROM moving RETURNING *) INSERT INTO outbox SELECT * FROM rows;
         COMMIT",
        next = day + 1
    )
}

/// The stream shows a moved row like a new one, so the session that moves rows marks them by a replication origin.
#[tokio::test]
async fn rows_moved_under_the_origin_are_not_published_again_and_others_are() {
    let stage = Stage::shared("moved").await;
    stage
        .sql(
            "ALTER TABLE outbox RENAME TO before;
             CREATE TABLE outbox (LIKE before INCLUDING DEFAULTS, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);
             CREATE SEQUENCE numbers; ALTER TABLE outbox ALTER seq SET DEFAULT nextval('numbers');
             CREATE TABLE waiting PARTITION OF outbox DEFAULT",
        )
        .await;
    let row = |n: u32, day: u32| {
        format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, created_at)
             VALUES ('Order', 'a', 'E', '{n}', '2026-01-0{day}')"
        )
    };
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let mut daemon = stage.relay().await;
    stage.sql(&[row(1, 1), row(2, 1), row(3, 2), row(4, 3)].join(";")).await;
    assert_eq!(inbox.bodies(4).await, ["1", "2", "3", "4"]);
    crate::stage::eventually("check warns of a default partition with rows", async || {
        let found = finding(&say(&daemon, &["check"]).await, "partitions");
        found.contains("waiting has rows") && found.contains("outboxd_moved")
    })
    .await;

    // A session with the origin, across several transactions, beside other writers.
    let origin = format!("outboxd_moved_{}", stage.name);
    let mover = stage.client().await;
    let setup = format!(
        "SELECT pg_replication_origin_create('{origin}'); SELECT pg_replication_origin_session_setup('{origin}')"
    );
    mover.batch_execute(&setup).await.unwrap();
    mover.batch_execute(&out_of_the_default(1)).await.unwrap();
    stage.sql(&row(5, 1)).await;
    mover
        .batch_execute("UPDATE outbox SET created_at = '2026-01-01 12:00' WHERE payload = '3'")
        .await
        .unwrap();
    stage.sql(&row(6, 4)).await;
    assert_eq!(inbox.bodies(2).await, ["5", "6"]);
    let shown = until(&daemon, "orders", |shown| shown["ignored"] == 3).await;
    assert_eq!(shown["confirmed"], 6, "{shown}");
    let log = daemon.log();
    for rows in [1, 2] {
        let said = format!("{rows} rows of one transaction are not published");
        let line =
            log.lines().find(|line| line.contains(&said)).unwrap_or_else(|| panic!("no {said}: {log}"));
        assert!(line.contains("WARN") && line.contains(&origin), "{line}");
    }
    assert_eq!(log.matches("rows of one transaction").count(), 2, "{log}");

    // A session without the origin.
    stage.sql(&out_of_the_default(3)).await;
    assert_eq!(inbox.bodies(1).await, ["4"]);
    assert!(daemon.sigterm(PATIENCE).await.success());
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    inbox.stays_empty().await;
    drop(mover);
    crate::stage::eventually("the origin is free", async || {
        stage
            .client()
            .await
            .batch_execute(&format!("SELECT pg_replication_origin_drop('{origin}')"))
            .await
            .is_ok()
    })
    .await;
}
