//! `idle_replication_slot_timeout`, of PostgreSQL 18: a slot that nobody uses is invalidated.

use std::time::{Duration, Instant};

use crate::{
    stage::{PATIENCE, Stage, eventually, say, until_alive, until_state},
    support::{Daemon, Postgres, PostgresOptions, Proxy, shared_rabbitmq},
};

/// The server looks at its slots with each checkpoint.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why the slot is invalid, after a checkpoint.
async fn invalidated(stage: &Stage) -> Option<String> {
    let client = stage.client().await;
    client.batch_execute("CHECKPOINT").await.unwrap();
    let sql = "SELECT invalidation_reason FROM pg_replication_slots WHERE slot_name = $1";
    client.query_one(sql, &[&stage.slot()]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_slot_is_kept_in_use_while_the_broker_is_away_and_lost_while_outboxd_is_stopped() {
    let server = Postgres::start(PostgresOptions::default()).await;
    let client = server.client("postgres").await;
    let known = "SELECT FROM pg_settings WHERE name = 'idle_replication_slot_timeout'";
    if client.query_opt(known, &[]).await.unwrap().is_none() {
        println!("skipped: idle_replication_slot_timeout came with PostgreSQL 18");
        return;
    }
    let set = format!("ALTER SYSTEM SET idle_replication_slot_timeout = '{}s'", TIMEOUT.as_secs());
    client.batch_execute(&set).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let node = shared_rabbitmq().await;
    let mut stage = Stage::on("idle", &server, node).await;
    stage.consume().await;
    let (postgres, broker) = (Proxy::start(server.port()), Proxy::start(node.port()));
    let mut daemon = Daemon::start(&stage.config_through(&postgres, &broker));
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 1, "OrderCreated").await;
    eventually("the row has arrived", async || stage.oracle.distinct_count() == 1).await;

    broker.refuse();
    until_state(&daemon, "orders", "connecting").await;
    stage.write_row("a", 2, "OrderChanged").await;
    let away = Instant::now();
    while away.elapsed() < 2 * TIMEOUT {
        assert_eq!(invalidated(&stage).await, None, "{}", daemon.log());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(daemon.log().contains("used the slot for a moment"));
    broker.resume();
    stage.verdict().await.assert_delivered(0);
    let said = say(&daemon, &["check"]).await;
    assert_eq!(said.status, 0);
    assert!(said.stdout.contains("a slot that nobody uses for 20 s (idle_replication_slot_timeout)"));

    assert!(daemon.sigterm(PATIENCE).await.success());
    eventually("the slot is lost", async || invalidated(&stage).await.as_deref() == Some("idle_timeout"))
        .await;
    daemon.start_again();
    until_alive(&daemon).await;
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("nobody used it for longer than idle_replication_slot_timeout"), "{reason}");
    assert!(!reason.contains("max_slot_wal_keep_size"), "{reason}");
}
