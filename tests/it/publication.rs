//! Altered publications. PostgreSQL never sends a row that was written while the publication did not hold the table, and the
//! stream does not show it. outboxd halts, and `recover` publishes the rows that the table has.

use crate::{
    row_order::finding,
    stage::{PATIENCE, Stage, alive, eventually, say, until, until_alive, until_state},
};
use testkit::Daemon;

const PUBLISH: &str = "CREATE PUBLICATION outboxd_orders FOR TABLE ONLY outbox WITH (publish = 'insert')";

/// Relays some rows through a daemon that keeps running.
async fn relayed(test: &str) -> (Stage, Daemon) {
    let stage = stage(test).await;
    let daemon = stage.relay_as_printed_role().await;
    written(stage, daemon).await
}

/// The same with a superuser: `recover` corrects the publication, which the printed role does not own.
async fn relayed_as_owner(test: &str) -> (Stage, Daemon) {
    let stage = stage(test).await;
    let daemon = stage.relay().await;
    written(stage, daemon).await
}

async fn stage(test: &str) -> Stage {
    let mut stage = Stage::shared(test).await;
    stage.workload.transactions = 10;
    stage.consume().await;
    stage
}

async fn written(stage: Stage, daemon: Daemon) -> (Stage, Daemon) {
    stage.write().await;
    stage.verdict().await.assert_delivered(0);
    (stage, daemon)
}

/// Checks that the source halts and names the cause, the time and the next step; that outboxd does not correct the publication
/// meanwhile, which would hide the gap; that `check` and `setup` report the same; and that `recover` corrects everything.
async fn halts_until_recovered(stage: &Stage, daemon: &Daemon, what: &str) {
    until_alive(daemon).await;
    let reason = until_state(daemon, "orders", "halted").await;
    println!("{reason}");
    for part in [what, &stage.slot(), "rows committed after ", "outboxd recover --source orders"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let begins = reason.split_once("rows committed after ").unwrap().1.split_whitespace().next().unwrap();
    let missing = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND $2::text::pg_lsn <= pg_current_wal_lsn()";
    let client = stage.client().await;
    let row = client.query_one(missing, &[&stage.slot(), &begins]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1, "a position, and the slot is left alone: {reason}");
    assert_eq!(daemon.readyz().await.0, 503);
    let said = say(daemon, &["check"]).await;
    assert!(said.status == 1 && said.stdout.contains("FAILED   continuity"), "{}", said.stdout);
    assert!(say(daemon, &["setup"]).await.stderr.contains("nothing has been created"));

    assert_eq!(say(daemon, &["recover", "--source", "orders"]).await.status, 0);
    until_state(daemon, "orders", "streaming").await;
    stage.write_row("after", 1, "OrderCreated").await;
    let verdict = stage.verdict().await;
    assert!(verdict.lost.is_empty() && verdict.altered.is_empty(), "{verdict}");
    assert_eq!(say(daemon, &["check"]).await.status, 0);
}

#[tokio::test]
async fn a_publication_that_is_dropped_under_a_running_outboxd_is_not_made_anew() {
    let (stage, daemon) = relayed_as_owner("dropped").await;
    stage.sql("DROP PUBLICATION outboxd_orders").await;
    stage.write_row("in the gap", 1, "OrderCreated").await;
    halts_until_recovered(&stage, &daemon, "the publication does not exist").await;
}

#[tokio::test]
async fn a_table_taken_out_of_the_publication_is_noticed_while_nothing_is_sent() {
    let (stage, daemon) = relayed_as_owner("taken_out").await;
    stage.sql("CREATE TABLE other (id int); ALTER PUBLICATION outboxd_orders SET TABLE other").await;
    stage.write_row("in the gap", 1, "OrderCreated").await;
    halts_until_recovered(&stage, &daemon, "the publication does not contain the table").await;
}

/// Corrected before anybody noticed, while the stream continues as if nothing had happened.
#[tokio::test]
async fn a_table_put_back_into_the_publication_between_two_looks_leaves_a_gap() {
    let (stage, daemon) = relayed("put_back").await;
    let client = stage.client().await;
    client.batch_execute("ALTER PUBLICATION outboxd_orders DROP TABLE outbox").await.unwrap();
    stage.write_row("in the gap", 1, "OrderCreated").await;
    client.batch_execute("ALTER PUBLICATION outboxd_orders ADD TABLE ONLY outbox").await.unwrap();
    stage.write_row("sent", 1, "OrderCreated").await;
    halts_until_recovered(&stage, &daemon, "removed from the publication and added again").await;
}

/// The connection that watches the publication may be lost, too.
#[tokio::test]
async fn a_monitor_that_was_cut_off_looks_again_and_notices() {
    let (stage, daemon) = relayed_as_owner("cut_monitor").await;
    let client = stage.client().await;
    let monitor =
        "FROM pg_stat_activity WHERE application_name = 'outboxd monitor' AND datname = current_database()";
    let end = format!("SELECT pg_terminate_backend(pid) {monitor}");
    assert_eq!(client.execute(&end, &[]).await.unwrap(), 1);
    let pid = format!("SELECT pid {monitor}");
    eventually("it looks again", async || client.execute(&pid, &[]).await.unwrap() == 1).await;
    assert_eq!(daemon.reconnects("orders", "postgres").await, 0, "the stream is another connection");
    client.batch_execute("ALTER PUBLICATION outboxd_orders DROP TABLE outbox").await.unwrap();
    stage.write_row("in the gap", 1, "OrderCreated").await;
    halts_until_recovered(&stage, &daemon, "the publication does not contain the table").await;
}

#[tokio::test]
async fn a_publication_made_anew_while_outboxd_is_stopped_leaves_a_gap() {
    let (stage, mut daemon) = relayed("anew").await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    stage.sql("DROP PUBLICATION outboxd_orders").await;
    stage.write_row("in the gap", 1, "OrderCreated").await;
    stage.sql(PUBLISH).await;
    daemon.start_again();
    halts_until_recovered(&stage, &daemon, "the publication was dropped and created again").await;
}

/// A noticed gap stays a gap after somebody creates the publication by hand.
#[tokio::test]
async fn a_publication_made_by_hand_does_not_hide_what_was_passed_over() {
    let (stage, mut daemon) = relayed("by_hand").await;
    stage.sql("ALTER PUBLICATION outboxd_orders SET (publish = 'update')").await;
    until_state(&daemon, "orders", "halted").await;
    stage.write_row("in the gap", 1, "OrderCreated").await;
    stage.sql("ALTER PUBLICATION outboxd_orders SET (publish = 'insert')").await;
    daemon.restart().await;
    halts_until_recovered(&stage, &daemon, "the publication does not publish inserts").await;
}

#[tokio::test]
async fn a_table_made_anew_under_the_same_name_is_not_published_and_halts() {
    let (stage, daemon) = relayed_as_owner("table_anew").await;
    let client = stage.client().await;
    client
        .batch_execute(
            "BEGIN; ALTER TABLE outbox RENAME TO outbox_before;
             CREATE TABLE outbox (LIKE outbox_before INCLUDING ALL); DROP TABLE outbox_before; COMMIT",
        )
        .await
        .unwrap();
    stage.write_row("in the gap", 1, "OrderCreated").await;
    halts_until_recovered(&stage, &daemon, "the publication does not contain the table").await;
}

/// A publication of all tables skips nothing.
#[tokio::test]
async fn a_table_made_anew_in_a_publication_of_all_tables_goes_on() {
    let mut stage = Stage::shared("all_tables").await;
    stage.sql("CREATE PUBLICATION outboxd_orders FOR ALL TABLES WITH (publish = 'insert')").await;
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    stage
        .sql(
            "BEGIN; ALTER TABLE outbox RENAME TO outbox_before;
             CREATE TABLE outbox (LIKE outbox_before INCLUDING ALL); DROP TABLE outbox_before; COMMIT",
        )
        .await;
    stage.write_row("a", 2, "OrderCreated").await;
    daemon.restart().await;
    stage.write_row("a", 3, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    assert_eq!(daemon.readyz().await.0, 200);
}

/// The rows would have the names of the partitions, and count as rows of other tables.
#[tokio::test]
async fn a_partitioned_table_that_is_published_as_its_partitions_halts() {
    let mut stage = Stage::shared("as_parts").await;
    stage
        .sql(
            "ALTER TABLE outbox RENAME TO first; ALTER TABLE first DROP CONSTRAINT outbox_pkey;
             CREATE TABLE outbox (LIKE first INCLUDING DEFAULTS INCLUDING IDENTITY) PARTITION BY LIST (aggregatetype);
             -- From PostgreSQL 17 on, a table with an identity column of its own cannot become a partition.
             ALTER TABLE first ALTER seq DROP IDENTITY;
             ALTER TABLE outbox ATTACH PARTITION first DEFAULT;
             -- The script's own statement for a partitioned table, which stands in a comment.
             CREATE PUBLICATION outboxd_orders FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true)",
        )
        .await;
    stage.consume().await;
    let daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    // New and dropped partitions alter nothing.
    stage.sql("CREATE TABLE second PARTITION OF outbox FOR VALUES IN ('Other'); DROP TABLE second").await;
    stage.sql("ALTER PUBLICATION outboxd_orders SET (publish_via_partition_root = false)").await;
    stage.write_row("in the gap", 1, "OrderCreated").await;
    until_state(&daemon, "orders", "halted").await;
    // `recover` names what has to be altered by hand, and afterwards does the rest.
    let said = say(&daemon, &["recover", "--source", "orders"]).await;
    assert!(said.status == 1 && said.stderr.contains("publish_via_partition_root = true"), "{}", said.stderr);
    stage.sql("ALTER PUBLICATION outboxd_orders SET (publish_via_partition_root = true)").await;
    halts_until_recovered(&stage, &daemon, "publishes the partitions in place of the table").await;
}

/// The slot existed before, and has skipped the rows written since.
#[tokio::test]
async fn a_slot_made_by_hand_before_the_publication_has_a_gap() {
    let mut stage = Stage::shared("slot_first").await;
    stage.consume().await;
    stage.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", stage.slot())).await;
    stage.write_row("in the gap", 1, "OrderCreated").await;
    // A superuser: `recover` creates the publication.
    let daemon = alive(&stage.config()).await;
    halts_until_recovered(&stage, &daemon, "the publication does not exist").await;
}

/// Up to version 17 the server refuses for ever to send rows from before the publication.
#[tokio::test]
async fn a_slot_made_by_hand_before_a_publication_made_by_hand_has_a_gap_as_soon_as_the_server_refuses() {
    let mut stage = Stage::shared("both_hand").await;
    let version = "SELECT current_setting('server_version_num')::int4";
    if stage.client().await.query_one(version, &[]).await.unwrap().get::<_, i32>(0) >= 180_000 {
        return println!("this server passes such rows over without a word");
    }
    stage.consume().await;
    stage.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", stage.slot())).await;
    stage.write_row("in the gap", 1, "OrderCreated").await;
    // The script creates the publication, and no slot.
    let daemon = alive(&stage.run_printed_sql().await).await;
    halts_until_recovered(&stage, &daemon, "created after the rows").await;
}

/// Another program may use the other tables of the publication.
#[tokio::test]
async fn a_publication_that_holds_other_tables_is_nobodys_to_drop() {
    let stage = Stage::shared("shared").await;
    let daemon = Daemon::prepare(&stage.config());
    stage.sql("CREATE TABLE other (id int); CREATE PUBLICATION outboxd_orders FOR TABLE outbox, other").await;
    let take_out = r#"ALTER PUBLICATION "outboxd_orders" DROP TABLE ONLY "public"."outbox";"#;
    let check = async || finding(&say(&daemon, &["check"]).await, "publication");
    let teardown = async || say(&daemon, &["teardown", "--source", "orders"]).await.stdout;
    for said in [check().await, teardown().await] {
        assert!(said.contains("other tables") && !said.contains("DROP PUBLICATION"), "{said}");
        assert!(said.contains(take_out), "{said}");
    }
    assert!(
        check().await.contains("set postgres.publication to the name of a publication for outboxd alone")
    );
    stage.sql(take_out).await;
    assert!(!teardown().await.contains("out of it"), "it is out");

    stage.sql("DROP PUBLICATION outboxd_orders; CREATE PUBLICATION outboxd_orders FOR ALL TABLES").await;
    for said in [check().await, teardown().await] {
        assert!(said.contains("other tables") && !said.contains("DROP "), "{said}");
    }
    stage.sql("DROP PUBLICATION outboxd_orders; CREATE PUBLICATION outboxd_orders FOR TABLE outbox").await;
    assert!(check().await.contains("DROP PUBLICATION"), "nobody else's table is in it");
    assert!(teardown().await.contains("publication outboxd_orders: dropped"));
}

/// Nothing existed before: a first start has no gap.
#[tokio::test]
async fn a_first_start_makes_the_publication_and_so_does_one_after_a_teardown() {
    let (stage, mut daemon) = relayed_as_owner("first").await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    assert_eq!(say(&daemon, &["teardown", "--source", "orders"]).await.status, 0);
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("after", 1, "OrderCreated").await;
    assert!(stage.verdict().await.lost.is_empty());
}

/// A role that may not create the publication learns who may, and nothing is dropped before.
#[tokio::test]
async fn a_role_that_may_not_mend_the_publication_is_told_who_may() {
    let mut stage = Stage::shared("not_owner").await;
    let role = stage.name.clone();
    stage
        .sql(&format!(
            "CREATE ROLE \"{role}\" LOGIN REPLICATION; GRANT SELECT ON outbox TO \"{role}\";
             GRANT CREATE ON SCHEMA public TO \"{role}\"; {PUBLISH}"
        ))
        .await;
    let config = stage.config_as(&role);
    stage.consume().await;
    let mut daemon = alive(&config).await;
    daemon.wait_ready(PATIENCE).await;
    for (harm, mend) in [
        ("ALTER PUBLICATION outboxd_orders DROP TABLE outbox", "ADD TABLE ONLY \"public\".\"outbox\""),
        ("DROP PUBLICATION outboxd_orders", "CREATE PUBLICATION \"outboxd_orders\""),
    ] {
        stage.sql(harm).await;
        until_state(&daemon, "orders", "halted").await;
        stage.write_row(mend, 1, "OrderCreated").await;
        let said = say(&daemon, &["recover", "--source", "orders"]).await;
        assert!(said.status == 1 && said.stderr.contains(mend), "{}", said.stderr);
        let slots = "SELECT FROM pg_replication_slots WHERE slot_name = $1";
        assert_eq!(stage.client().await.execute(slots, &[&stage.slot()]).await.unwrap(), 1);
        let statement = if mend.starts_with("ADD") {
            "ALTER PUBLICATION outboxd_orders ADD TABLE ONLY outbox"
        } else {
            PUBLISH
        };
        stage.sql(statement).await;
        assert_eq!(say(&daemon, &["recover", "--source", "orders"]).await.status, 0);
        until_state(&daemon, "orders", "streaming").await;
    }
    assert!(stage.verdict().await.lost.is_empty());
}

/// An alteration may be harmless, so messages continue. Clean-up stays off, also after a restart, until an operator declares that
/// nothing is missing.
#[tokio::test]
async fn an_altered_publication_is_said_and_ends_clean_up_until_somebody_has_looked() {
    let mut stage = Stage::shared("altered").await;
    stage.source = "cleanup.mode = \"delete\"\n".to_owned();
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    let client = stage.client().await;
    let rows = async || client.query_one("SELECT count(*) FROM outbox", &[]).await.unwrap().get::<_, i64>(0);
    stage.write_row("a", 1, "OrderCreated").await;
    eventually("the row is removed", async || rows().await == 0).await;

    // Inserts are not published for a while, and nobody notices: the slot has skipped a row.
    client.batch_execute("ALTER PUBLICATION outboxd_orders SET (publish = 'update')").await.unwrap();
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('Order', 'passed over', 'OrderCreated')";
    client.batch_execute(insert).await.unwrap();
    client.batch_execute("ALTER PUBLICATION outboxd_orders SET (publish = 'insert')").await.unwrap();
    let shown =
        until(&daemon, "orders", |shown| shown["cleanup_off"].is_string() || shown["state"] == "halted")
            .await;
    // A monitor that noticed in between has halted the source, which is as good.
    if shown["state"] == "halted" {
        return;
    }
    assert!(shown["cleanup_off"].as_str().unwrap().contains("was altered"), "{shown}");
    assert_eq!(daemon.metric("outboxd_cleanup_off{source=\"orders\"}").await, Some(1.0));
    eventually("the log reports the altered publication", async || {
        daemon.log().contains("the publication was altered")
    })
    .await;
    stage.write_row("a", 2, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    assert_eq!(rows().await, 2);
    assert!(say(&daemon, &["status"]).await.stdout.contains("clean-up is off: "));

    daemon.restart().await;
    daemon.wait_ready(PATIENCE).await;
    let shown = until(&daemon, "orders", |shown| shown["cleanup_off"].is_string()).await;
    assert_eq!(rows().await, 2);
    let word = shown["cleanup_off"].as_str().unwrap();
    let from = word.find("UPDATE ").expect("the statement is named");
    let word = &word[from..from + word[from..].find(';').unwrap()];
    let said = say(&daemon, &["check"]).await;
    assert!(said.status == 0 && said.stdout.contains("warning  unpublished rows"), "{}", said.stdout);
    assert!(said.stdout.contains(word), "{}", said.stdout);
    stage.sql(word).await;
    daemon.restart().await;
    daemon.wait_ready(PATIENCE).await;
    eventually("rows are removed again", async || rows().await == 0).await;
    assert_eq!(daemon.metric("outboxd_cleanup_off{source=\"orders\"}").await, Some(0.0));
}
