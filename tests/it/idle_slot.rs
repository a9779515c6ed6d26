//! `idle_replication_slot_timeout` (PostgreSQL 18): the server invalidates an unused slot.

use std::time::{Duration, Instant};

use crate::stage::{PATIENCE, Stage, eventually, say, source, until_alive, until_state};
use testkit::{Daemon, Postgres, PostgresOptions, Proxy, shared_rabbitmq};

/// The server checks its slots at each checkpoint.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The slot's invalidation reason, after a checkpoint.
async fn invalidated(stage: &Stage) -> Option<String> {
    let client = stage.client().await;
    client.batch_execute("CHECKPOINT").await.unwrap();
    let sql = "SELECT invalidation_reason FROM pg_replication_slots WHERE slot_name = $1";
    client.query_one(sql, &[&stage.slot()]).await.unwrap().get(0)
}

/// A source that keeps its slot in use while the broker is down; `None` where the server has no such timeout.
async fn kept_in_use(settings: &str) -> Option<(Postgres, Stage, Daemon, [Proxy; 2])> {
    let server = Postgres::start(PostgresOptions::default()).await;
    let client = server.client("postgres").await;
    let known = "SELECT FROM pg_settings WHERE name = 'idle_replication_slot_timeout'";
    if client.query_opt(known, &[]).await.unwrap().is_none() {
        println!("skipped: idle_replication_slot_timeout came with PostgreSQL 18");
        return None;
    }
    let set = format!("ALTER SYSTEM SET idle_replication_slot_timeout = '{}s'", TIMEOUT.as_secs());
    client.batch_execute(&set).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let node = shared_rabbitmq().await;
    let mut stage = Stage::on("idle", &server, node).await;
    stage.source = settings.to_owned();
    stage.consume().await;
    let (postgres, broker) = (Proxy::start(server.port()), Proxy::start(node.port()));
    let mut daemon = Daemon::start(&stage.config_through(&postgres, &broker));
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 1, "OrderCreated").await;
    // Confirmed, too: messages in flight at the outage may be repeated.
    eventually("the row is confirmed", async || {
        stage.oracle.distinct_count() == 1 && !source(&daemon, "orders").await["last_confirmed_at"].is_null()
    })
    .await;

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
    Some((server, stage, daemon, [postgres, broker]))
}

/// Such attempts leave no time to use the slot between them.
#[tokio::test]
async fn a_slot_is_kept_in_use_between_attempts_that_follow_one_another_at_once() {
    kept_in_use("delivery.backoff_min_ms = 1\ndelivery.backoff_max_ms = 1").await;
}

#[tokio::test]
async fn a_slot_is_kept_in_use_while_the_broker_is_away_and_lost_while_outboxd_is_stopped() {
    let Some((_server, stage, mut daemon, _proxies)) = kept_in_use("").await else { return };
    let said = say(&daemon, &["check"]).await;
    assert_eq!(said.status, 0);
    assert!(
        said.stdout.contains("invalidates a slot after 20 s without use (idle_replication_slot_timeout)")
    );

    assert!(daemon.sigterm(PATIENCE).await.success());
    eventually("the slot is lost", async || invalidated(&stage).await.as_deref() == Some("idle_timeout"))
        .await;
    daemon.start_again();
    until_alive(&daemon).await;
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("no client used it for longer than idle_replication_slot_timeout"), "{reason}");
    assert!(!reason.contains("max_slot_wal_keep_size"), "{reason}");
}
