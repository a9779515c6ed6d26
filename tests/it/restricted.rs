//! Restrictions of a careful DBA: timeouts, read-only sessions, row security, no SELECT.

use std::time::Duration;

use futures_util::future::join_all;

use crate::{
    row_order::finding,
    stage::{PATIENCE, Stage, alive, eventually, say, until, until_state},
};
use testkit::Daemon;

const ROW: &str =
    "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', 'E', '1')";

/// Creating a slot waits for writing transactions, possibly longer than a statement may last.
#[tokio::test]
async fn timeouts_of_the_database_end_no_wait_for_a_slot() {
    // In parallel, because each waits longer than a statement may last.
    let waits = [
        ("t_publish", "", None),
        ("t_skip", "backlog = \"skip\"\n", None),
        ("t_setup", "", Some("setup")),
        ("t_setup_skip", "backlog = \"skip\"\n", Some("setup")),
    ];
    join_all(waits.map(|(test, source, command)| waits_for_a_transaction(test, source, command))).await;
}

async fn waits_for_a_transaction(test: &str, source: &str, command: Option<&str>) {
    let mut stage = Stage::shared(test).await;
    stage.source = source.to_owned();
    let (open, looks) = (stage.client().await, stage.client().await);
    stage
        .sql(&format!(
            "ALTER DATABASE \"{0}\" SET lock_timeout = '1s'; ALTER DATABASE \"{0}\" SET statement_timeout = '4s'",
            stage.name
        ))
        .await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    open.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    let mut daemon = match command {
        Some(_) => Daemon::prepare(&stage.config()),
        None => Daemon::start(&stage.config()),
    };
    let ends = async {
        let waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'outboxd %'
                     AND wait_event_type = 'Lock'";
        eventually("it waits for the transaction", async || {
            looks.query_opt(waits, &[]).await.unwrap().is_some()
        })
        .await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        open.batch_execute("COMMIT").await.unwrap();
    };
    if let Some(command) = command {
        let arguments = [command];
        let (said, ()) = tokio::join!(say(&daemon, &arguments), ends);
        assert_eq!(said.status, 0);
        return;
    }
    ends.await;
    daemon.wait_ready(PATIENCE).await;
    assert!(!daemon.log().contains("timeout"), "{}", daemon.log());
    stage.sql(ROW).await;
    assert_eq!(inbox.bodies(1).await, ["1"]);
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn a_read_only_database_is_said_with_the_statement_that_lets_outboxd_write() {
    let stage = Stage::shared("read_only").await;
    stage.sql(ROW).await;
    stage.sql(&format!("ALTER DATABASE \"{}\" SET default_transaction_read_only = on", stage.name)).await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let mut daemon = alive(&stage.config()).await;
    let connecting = |shown: &serde_json::Value| {
        shown["reason"].as_str().is_some_and(|reason| reason.contains("default_transaction_read_only"))
    };
    until(&daemon, "orders", connecting).await;
    let said = say(&daemon, &["check"]).await;
    let failed = finding(&said, "read-only");
    assert!(said.status == 1 && failed.contains("FAILED"), "{}", said.stdout);
    let (_, cure) = failed.split_once("-> ").expect("a cure");
    for command in [&["setup"][..], &["recover", "--source", "orders"]] {
        let said = say(&daemon, command).await;
        let text = said.stdout + &said.stderr;
        assert!(said.status == 1 && text.contains("SET default_transaction_read_only = off"), "{text}");
    }
    stage.sql(cure.split(" (for this role only)").next().unwrap()).await;
    daemon.wait_ready(PATIENCE).await;
    assert_eq!(inbox.bodies(1).await, ["1"]);
}

/// The stream needs no SELECT, so a source that skips the backlog needs none.
#[tokio::test]
async fn without_a_backlog_neither_row_security_nor_a_missing_right_keeps_rows_from_streaming() {
    for (test, rights, what, cure) in [
        ("no_select", "", "may not read", "GRANT SELECT ON"),
        (
            "one_column",
            "GRANT SELECT (id) ON outbox TO ROLE;",
            "may not read the columns aggregatetype",
            "GRANT SELECT ON",
        ),
        (
            "rls",
            "GRANT SELECT ON outbox TO ROLE; ALTER TABLE outbox ENABLE ROW LEVEL SECURITY;",
            "row security hides rows",
            "BYPASSRLS",
        ),
    ] {
        let mut stage = Stage::shared(test).await;
        let role = stage.name.clone();
        stage
            .sql(&format!(
                "CREATE ROLE \"{role}\" LOGIN REPLICATION; GRANT CREATE ON SCHEMA public TO \"{role}\"; {}
                 CREATE PUBLICATION outboxd_orders FOR TABLE ONLY outbox WITH (publish = 'insert'); {ROW}",
                rights.replace("ROLE;", &format!("\"{role}\";"))
            ))
            .await;
        let said = say(&Daemon::prepare(&stage.config_as(&role)), &["check"]).await;
        let failed = finding(&said, "table privileges");
        assert!(failed.contains("FAILED") && failed.contains("which the backlog needs"), "{failed}");

        stage.source = "backlog = \"skip\"\n".into();
        let said = say(&Daemon::prepare(&stage.config_as(&role)), &["check"]).await;
        let warning = finding(&said, "table privileges");
        assert!(said.status == 0 && warning.contains("warning"), "{}", said.stdout);
        assert!(warning.contains(what) && warning.contains(cure), "{warning}");
        let mut inbox = stage.inbox(&["Order.events"]).await;
        let mut daemon = Daemon::start(&stage.config_as(&role));
        daemon.wait_ready(PATIENCE).await;
        stage.sql(&ROW.replace("'1'", "'2'")).await;
        assert_eq!(inbox.bodies(1).await, ["2"]);
        for command in [["replay", "--source", "orders"], ["recover", "--source", "orders"]] {
            let said = say(&daemon, &command).await;
            assert!(said.status == 1 && said.stderr.contains(cure), "{}", said.stderr);
        }
        daemon.restart().await;
        daemon.wait_ready(PATIENCE).await;
        until_state(&daemon, "orders", "streaming").await;
        inbox.stays_empty().await;
    }
}
