//! A crash of PostgreSQL loses the slot's latest confirmed position. The server saves a slot when its `restart_lsn` or
//! `catalog_xmin` moves, which an open transaction prevents. The next user of the slot continues from outboxd's record.

use std::time::Duration;

use tokio_postgres::Client;

use crate::{
    recovery::IN_FLIGHT_MAX,
    stage::{PATIENCE, Stage, until_alive, until_state},
};
use testkit::{Daemon, Postgres, PostgresOptions, shared_rabbitmq};

/// Starts the test's own server.
async fn stage(test: &str) -> (Postgres, Stage) {
    let server = Postgres::start(PostgresOptions::default()).await;
    let mut stage = Stage::on(test, &server, shared_rabbitmq().await).await;
    stage.source = format!("delivery.in_flight_max = {IN_FLIGHT_MAX}");
    stage.sql("CREATE TABLE pin (n int)").await;
    stage.consume().await;
    (server, stage)
}

/// Opens a transaction that keeps the server from saving the slot, except perhaps once soon.
async fn pin(stage: &Stage) -> Client {
    let client = stage.client().await;
    client.batch_execute("BEGIN; INSERT INTO pin VALUES (1)").await.unwrap();
    client
}

/// Waits until the record has the slot's final position.
async fn record_rests(stage: &Stage) {
    const LONGER_THAN_IT_TAKES: Duration = Duration::from_secs(3);
    let client = stage.client().await;
    let version = async || -> i64 {
        let sql = "SELECT version FROM outboxd_state WHERE slot = $1";
        client.query_one(sql, &[&stage.slot()]).await.unwrap().get(0)
    };
    for _ in 0..20 {
        let before = version().await;
        tokio::time::sleep(LONGER_THAN_IT_TAKES).await;
        if version().await == before {
            return;
        }
    }
    panic!("the record is written again and again, though nothing is confirmed");
}

/// Tells whether the slot's position is before the recorded one.
async fn has_forgotten(stage: &Stage) -> bool {
    let sql = "SELECT s.confirmed_flush_lsn < r.confirmed_flush FROM outboxd_state r JOIN pg_replication_slots s \
               ON s.slot_name = r.slot WHERE r.slot = $1";
    stage.client().await.query_one(sql, &[&stage.slot()]).await.unwrap().get(0)
}

#[tokio::test]
async fn another_process_repeats_nothing_that_a_crash_of_postgresql_made_the_slot_forget() {
    let (server, stage) = stage("forgotten").await;
    let mut daemon = stage.relay_as_printed_role().await;
    let mut forgotten = false;
    for crash in 1..=3 {
        let pinned = pin(&stage).await;
        for order in 0..50 {
            stage.write_row(&format!("order {order}"), crash, "OrderCreated").await;
        }
        record_rests(&stage).await;
        server.kill9().await;
        daemon.kill9().await;
        drop(pinned);
        server.start_again().await;
        // Depends on the server: it may save the slot at the last moment.
        forgotten |= has_forgotten(&stage).await;
        daemon.start_again();
        daemon.wait_ready(PATIENCE).await;
        stage.write_row("behind", crash, "OrderCreated").await;
        stage.verdict().await.assert_delivered(0);
    }
    assert!(forgotten, "the slot was saved each time: this shows nothing");
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn a_crash_of_postgresql_under_load_repeats_about_a_second_to_a_standby() {
    /// Longer than the record's delay on a busy machine, and much shorter than what the server loses.
    const BEHIND: Duration = Duration::from_secs(4);
    const FORGOTTEN: Duration = Duration::from_secs(12);
    let (server, mut stage) = stage("crash").await;
    stage.workload.pause = Duration::from_millis(20);
    let mut leader = stage.relay_as_printed_role().await;
    let standby = Daemon::start(&stage.config());
    until_alive(&standby).await;
    until_state(&standby, "orders", "standby").await;
    let pinned = pin(&stage).await;
    let writing = stage.keep_writing();
    tokio::time::sleep(FORGOTTEN).await;
    let confirmed = async || leader.count("orders", "messages_confirmed_total").await;
    let before = confirmed().await;
    tokio::time::sleep(BEHIND).await;
    let allowed = confirmed().await - before + IN_FLIGHT_MAX + stage.workload.rows_max;
    server.kill9().await;
    leader.kill9().await;
    drop(pinned);
    server.start_again().await;
    stage.receive_more(200).await;
    writing.stop().await;
    let verdict = stage.verdict().await;
    println!("{} of {before} rows repeated, {allowed} allowed", verdict.duplicates);
    verdict.assert_delivered(allowed);
}
