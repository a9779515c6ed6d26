//! The role of `setup --print-sql`: every command works with it. Where the role has no privilege, the output has the statement
//! for a DBA.

use serde_json::Value;

use crate::{
    parked::PARK,
    stage::{PATIENCE, Said, Stage, eventually, say, until, until_alive, until_state},
};
use testkit::Daemon;

const SOURCE: [&str; 2] = ["--source", "orders"];

async fn does(daemon: &Daemon, command: &[&str]) -> Said {
    let said = say(daemon, command).await;
    assert_eq!(said.status, 0, "{command:?}: {}{}", said.stdout, said.stderr);
    said
}

async fn does_for_source(daemon: &Daemon, command: &[&str]) -> String {
    does(daemon, &[command, &SOURCE].concat()).await.stdout
}

/// A source that parks, with the printed role.
async fn stage(test: &str) -> Stage {
    let mut stage = Stage::shared(test).await;
    stage.source = PARK.to_owned();
    stage.with_printed_role().await;
    stage
}

/// The statement in the output of `teardown` that drops the publication, which stays.
fn statement(teardown: &str) -> &str {
    let line = teardown.lines().find(|line| line.starts_with("publication outboxd_orders: stays"));
    line.and_then(|line| line.split_once("To remove it: ")).expect("a statement").1
}

#[tokio::test]
async fn every_command_works_under_the_printed_role() {
    let mut stage = stage("printed").await;
    stage.consume_only("OrderChanged").await;
    let mut daemon = Daemon::prepare(&stage.config());

    // Nothing exists but the script's objects.
    assert!(!does(&daemon, &["check"]).await.stdout.contains("FAILED"));
    assert!(does(&daemon, &["schema"]).await.stdout.contains("CREATE TABLE outbox"));
    for outcome in ["created", "was there"] {
        let said = does(&daemon, &["setup"]).await.stdout;
        assert!(said.contains(&format!("{} {outcome}", stage.slot())), "{said}");
    }
    let json = say(&daemon, &["status", "--json"]).await.stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["sources"][0]["parked_rows"], 0, "{json}");

    // The stream, and parked rows.
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 1, "OrderChanged").await;
    stage.write_unseen("b", "OrderCreated").await;
    stage.write_unseen("c", "OrderCreated").await;
    until(&daemon, "orders", |shown| shown["parked_rows"] == 2).await;
    stage.verdict().await.assert_delivered(0);
    does(&daemon, &["check"]).await;
    does(&daemon, &["status"]).await;
    let parked = does_for_source(&daemon, &["parked", "list", "--json"]).await;
    let parked: Value = serde_json::from_str(&parked).unwrap();
    let position = parked[1]["position"].as_str().expect("two rows").to_owned();
    let said = does_for_source(&daemon, &["parked", "discard", &position]).await;
    assert!(said.contains("discarded: 1"), "{said}");
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let said = does_for_source(&daemon, &["parked", "requeue", "--all"]).await;
    assert!(said.contains("requeued: 1, still parked: 0"), "{said}");
    let said = does_for_source(&daemon, &["replay"]).await;
    assert!(said.contains("confirmed: 3"), "{said}");
    inbox.next().await;
    assert!(daemon.sigterm(PATIENCE).await.success());

    // The slot is gone; `recover` creates nothing that exists.
    let drop = format!("SELECT pg_drop_replication_slot('{}')", stage.slot());
    stage.sql(&drop).await;
    stage.write_row("a", 2, "OrderChanged").await;
    assert!(say(&daemon, &["check"]).await.stdout.contains("outboxd recover"));
    daemon.start_again();
    until_alive(&daemon).await;
    until_state(&daemon, "orders", "halted").await;
    let said = does_for_source(&daemon, &["recover"]).await;
    assert!(said.contains("created at"), "{said}");
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 3, "OrderChanged").await;
    until(&daemon, "orders", |shown| shown["state"] == "streaming").await;
    assert!(daemon.sigterm(PATIENCE).await.success());

    // The DBA owns the publication.
    let said = does_for_source(&daemon, &["teardown"]).await;
    for part in ["dropped", "its owner is postgres", "not role role_printed"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(does_for_source(&daemon, &["teardown"]).await.matches("was not there").count(), 2);
    stage.sql(statement(&said)).await;
    let said = does_for_source(&daemon, &["teardown"]).await;
    assert!(said.contains("publication outboxd_orders: was not there"), "{said}");

    // The same steps again.
    let said = say(&daemon, &["setup"]).await;
    assert!(said.status == 1 && said.stdout.contains("CREATE PUBLICATION"), "{}", said.stdout);
    stage.run_printed_sql().await;
    does(&daemon, &["setup"]).await;
    does_for_source(&daemon, &["teardown"]).await;
}

/// With the slot in the script, and with the privilege to delete rows.
#[tokio::test]
async fn the_printed_script_can_be_run_again_whatever_is_there_already() {
    for (test, more) in [
        ("script_slot", "backlog = \"skip\"\npostgres.create = false\n"),
        ("script_delete", "cleanup.mode = \"delete\"\n"),
    ] {
        let mut stage = Stage::shared(test).await;
        stage.source = format!("{PARK}{more}");
        stage.with_printed_role().await;
        let client = stage.client().await;
        let role = format!("role_{}", stage.name);
        let alter = format!("ALTER ROLE {role} NOLOGIN NOREPLICATION PASSWORD 'its own'");
        client.batch_execute(&alter).await.unwrap();
        let password = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
        let before: String = client.query_one(password, &[&role]).await.unwrap().get(0);
        stage.run_printed_sql().await;
        let after: String = client.query_one(password, &[&role]).await.unwrap().get(0);
        assert_eq!(before, after, "a role that is there keeps its password");

        let mut daemon = Daemon::prepare(&stage.config());
        does(&daemon, &["check"]).await;
        let mut inbox = stage.inbox(&["Order.events"]).await;
        daemon.start_again();
        daemon.wait_ready(PATIENCE).await;
        stage.write_unseen("a", "OrderCreated").await;
        inbox.next().await;
        let rows = if more.contains("delete") { 0 } else { 1 };
        let count = "SELECT count(*) FROM outbox";
        eventually("clean-up removes what it is to remove", async || {
            client.query_one(count, &[]).await.unwrap().get::<_, i64>(0) == rows
        })
        .await;
        assert!(daemon.sigterm(PATIENCE).await.success());
        does_for_source(&daemon, &["teardown"]).await;
    }
}
