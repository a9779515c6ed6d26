//! Failover slots (PostgreSQL 17 and later): created as configured, and kept by `recover`.

use crate::{
    holder::{database, hold},
    stage::{PATIENCE, Stage, eventually, say, source, until_alive, until_state},
};
use testkit::{Daemon, Postgres, PostgresOptions, shared_rabbitmq};

/// Starts a server that removes the WAL of slots which fall behind.
async fn server() -> Postgres {
    let settings = vec![("max_slot_wal_keep_size".to_owned(), "1MB".to_owned())];
    Postgres::start(PostgresOptions { settings, ..PostgresOptions::default() }).await
}

/// Tells whether the server has failover slots, and prints a line when it has none.
async fn has_failover_slots(server: &Postgres) -> bool {
    let client = server.client("postgres").await;
    let sql = "SELECT current_setting('server_version_num')::int4";
    let version: i32 = client.query_one(sql, &[]).await.unwrap().get(0);
    if version < 170_000 {
        println!("skipped: PostgreSQL {} has no failover slots, which came with 17", version / 10_000);
    }
    version >= 170_000
}

impl Stage {
    /// Tells whether the slot is a failover slot; `None` without a slot.
    async fn is_failover(&self) -> Option<bool> {
        let sql = "SELECT failover FROM pg_replication_slots WHERE slot_name = $1";
        self.client().await.query_opt(sql, &[&self.slot()]).await.unwrap().map(|row| row.get(0))
    }

    /// Makes the server remove WAL that the slot needs.
    async fn lose_slot(&self) {
        for _ in 0..4 {
            self.sql("CREATE TABLE bulk AS SELECT generate_series(1, 1000)").await;
            self.sql("DROP TABLE bulk").await;
            self.sql("SELECT pg_switch_wal()").await;
        }
        self.sql("CHECKPOINT").await;
    }
}

#[tokio::test]
async fn a_failover_slot_that_is_lost_is_recovered_as_a_failover_slot() {
    let server = server().await;
    if !has_failover_slots(&server).await {
        return;
    }
    let mut stage = Stage::on("failover", &server, shared_rabbitmq().await).await;
    stage.consume_only("OrderCreated").await;
    stage.source = "postgres.failover = true".to_owned();
    stage.write_row("a", 1, "OrderCreated").await;
    let mut daemon = stage.relay().await;
    assert_eq!(stage.is_failover().await, Some(true), "made after the backlog");
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());

    // Only the slot knew that it was a failover slot, and an interrupted recovery has dropped it.
    stage.source = String::new();
    let mut daemon = Daemon::prepare(&stage.config());
    stage.write_row("a", 2, "OrderChanged").await;
    stage.lose_slot().await;
    let mut recovery = daemon.begin_command(&["recover", "--source", "orders"]);
    eventually("the lost slot is dropped", async || stage.is_failover().await.is_none()).await;
    recovery.kill().await.unwrap();
    stage.bind("#").await;
    // The server may still hold the temporary slot of the killed process.
    eventually("recovered", async || say(&daemon, &["recover", "--source", "orders"]).await.status == 0)
        .await;
    assert_eq!(stage.is_failover().await, Some(true));
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;

    // The lost slot's kind is recorded, so it is still known after somebody drops the slot.
    daemon.kill9().await;
    stage.lose_slot().await;
    daemon.start_again();
    until_alive(&daemon).await;
    until_state(&daemon, "orders", "halted").await;
    stage.sql(&format!("SELECT pg_drop_replication_slot('{}')", stage.slot())).await;
    assert_eq!(say(&daemon, &["recover", "--source", "orders"]).await.status, 0);
    assert_eq!(stage.is_failover().await, Some(true));
    daemon.wait_ready(PATIENCE).await;
}

#[tokio::test]
async fn postgres_failover_makes_a_failover_slot_also_of_one_that_is_there() {
    let server = server().await;
    let mut stage = Stage::on("ordinary", &server, shared_rabbitmq().await).await;
    stage.consume().await;
    let config = |stage: &mut Stage, more: &str| {
        stage.source = format!("postgres.failover = true\n{more}");
        stage.config()
    };
    if !has_failover_slots(&server).await {
        // Failover slots on an older server are refused.
        let said = say(&Daemon::prepare(&config(&mut stage, "")), &["check"]).await;
        assert_eq!(said.status, 1);
        assert!(said.stdout.contains("has no failover slots"));
        return;
    }
    // An ordinary slot, made with postgres.failover = false.
    let mut daemon = stage.relay().await;
    assert_eq!(stage.is_failover().await, Some(false));
    assert!(daemon.sigterm(PATIENCE).await.success());
    let only_verifies = Daemon::prepare(&config(&mut stage, "postgres.create = false"));
    let said = say(&only_verifies, &["check"]).await;
    assert!(said.stdout.contains("is not a failover slot") && said.stdout.contains("(FAILOVER true)"));
    config(&mut stage, "");
    let mut daemon = stage.relay().await;
    assert_eq!(stage.is_failover().await, Some(true));
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());

    for more in ["", "backlog = \"skip\""] {
        let daemon = Daemon::prepare(&config(&mut stage, more));
        assert_eq!(say(&daemon, &["teardown", "--source", "orders"]).await.status, 0);
        stage.sql("TRUNCATE outbox").await;
        assert_eq!(say(&daemon, &["setup"]).await.status, 0);
        assert_eq!(stage.is_failover().await, Some(true), "by setup, {more}");
    }
}

/// The server would wait for the other instance without limit, and the waiting instance would never report that it stands by.
#[tokio::test]
async fn a_slot_that_another_instance_uses_is_made_a_failover_slot_by_nobody_who_waits() {
    let server = server().await;
    if !has_failover_slots(&server).await {
        return;
    }
    let mut stage = Stage::on("in_use", &server, shared_rabbitmq().await).await;
    let mut daemon = stage.relay().await;
    assert!(daemon.sigterm(PATIENCE).await.success());

    let holder = hold(&stage, "outboxd orders").await;
    let mut waits = database(&stage).connect_replication("waits").await.unwrap();
    assert!(!tokio::time::timeout(PATIENCE, waits.make_failover(&stage.slot())).await.unwrap().unwrap());
    drop(waits);
    let client = stage.client().await;
    let left = "SELECT FROM pg_stat_activity WHERE application_name = 'waits'";
    eventually("its session ends with it", async || client.query_opt(left, &[]).await.unwrap().is_none())
        .await;
    drop(holder);

    // Two instances start at once: one streams, the other stands by, and the slot is a failover slot.
    stage.source = "postgres.failover = true".to_owned();
    let daemons = [Daemon::start(&stage.config()), Daemon::start(&stage.config())];
    for daemon in &daemons {
        until_alive(daemon).await;
    }
    eventually("one streams and one stands by", async || {
        let mut states = Vec::new();
        for daemon in &daemons {
            states.push(source(daemon, "orders").await["state"].as_str().unwrap_or_default().to_owned());
        }
        states.sort();
        states == ["standby", "streaming"]
    })
    .await;
    assert_eq!(stage.is_failover().await, Some(true));
}
