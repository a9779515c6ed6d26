//! The slot's user and position.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Client;

use crate::stage::{PATIENCE, Stage, eventually, until};
use testkit::{shared_postgres, unique};

#[tokio::test]
async fn a_slot_that_is_gone_is_not_made_anew() {
    let mut stage = Stage::shared("gone").await;
    stage.workload.transactions = 20;
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write().await;
    stage.verdict().await.assert_delivered(0);
    let client = stage.client().await;

    daemon.suspend();
    let slot = stage.slot();
    let terminate =
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active";
    client.execute(terminate, &[&slot]).await.unwrap();
    eventually("the slot can be dropped", async || {
        client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await.is_ok()
    })
    .await;
    let gap = wal_end(&client).await;
    stage.write_row("in the gap", 1, "OrderCreated").await;
    daemon.resume();

    let halted = until(&daemon, "orders", |shown| shown["state"] == "halted").await;
    let reason = halted["reason"].as_str().unwrap();
    assert!(reason.contains(&slot), "{halted}");
    let named =
        reason.split_whitespace().find(|word| word.contains('/')).expect("the reason names a position");
    let confirmed = halted["confirmed_lsn"].as_str().unwrap();
    let (named_at, confirmed_at) = (lsn(&client, named).await, lsn(&client, confirmed).await);
    assert!(confirmed_at <= named_at && named_at <= gap, "the gap begins at {gap}: {halted}");
    let (status, text) = daemon.readyz().await;
    assert!(status == 503 && text.contains(&slot), "{status} {text}");
    let unknown = |shown: &Value| {
        ["lag_bytes", "slot_retained_bytes", "slot_wal_status"].iter().all(|figure| shown[figure].is_null())
    };
    until(&daemon, "orders", unknown).await;
    let metrics = daemon.metrics().await;
    for gone in ["outboxd_lag_bytes{", "outboxd_slot_retained_bytes{", "outboxd_slot_wal_status{"] {
        assert!(!metrics.contains(gone), "{gone} tells of a slot that is gone:\n{metrics}");
    }
    let slots = "SELECT FROM pg_replication_slots WHERE slot_name = $1";
    assert_eq!(client.execute(slots, &[&slot]).await.unwrap(), 0, "a new slot hides the gap");
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn an_idle_slot_advances_while_everything_else_is_busy() {
    let mut stage = Stage::shared("idle").await;
    stage.source = "postgres.wal_sender_timeout_ms = 3000".to_owned();
    let daemon = stage.relay_as_printed_role().await;
    let postgres = shared_postgres().await;
    let elsewhere = unique("elsewhere");
    postgres.create_database(&elsewhere).await;
    let busy = [stage.client().await, postgres.client(&elsewhere).await].map(|client| {
        tokio::spawn(async move {
            client.batch_execute("CREATE TABLE busy (text text)").await.unwrap();
            let insert = "INSERT INTO busy SELECT repeat('x', 500) FROM generate_series(1, 100)";
            loop {
                client.batch_execute(insert).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    });
    let client = stage.client().await;
    for _ in 0..3 {
        let (start, since) = (wal_end(&client).await, Instant::now());
        eventually("the slot has followed", async || confirmed_flush(&client, &stage.slot()).await >= start)
            .await;
        let took = since.elapsed();
        println!("the slot has followed after {took:?}");
        assert!(took < Duration::from_secs(10), "the slot followed after {took:?}");
    }
    assert_eq!(daemon.count("orders", "messages_published_total").await, 0);
    assert_eq!(daemon.reconnects("orders", "postgres").await, 0);
    busy.iter().for_each(|task| assert!(!task.is_finished(), "no other writer was active"));
    busy.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn wal_end(client: &Client) -> i64 {
    let sql = "SELECT (pg_current_wal_lsn() - '0/0')::bigint";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn lsn(client: &Client, text: &str) -> i64 {
    let sql = "SELECT ($1::text::pg_lsn - '0/0')::bigint";
    client.query_one(sql, &[&text]).await.unwrap().get(0)
}

async fn confirmed_flush(client: &Client, slot: &str) -> i64 {
    let sql = "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = $1";
    client.query_one(sql, &[&slot]).await.unwrap().get(0)
}
