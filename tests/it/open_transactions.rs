//! Transactions that were open before the slot, in any database of the server: creating the slot waits for them.

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_postgres::Client;

use crate::stage::{PATIENCE, Stage, alive, eventually, say, until, until_alive, until_state};
use testkit::{Daemon, Postgres, PostgresOptions, shared_rabbitmq, unique};

const BEGIN: &str = "BEGIN; INSERT INTO bills VALUES (1)";

/// Starts the test's own server: an open transaction delays every slot of its server.
async fn server() -> Postgres {
    let settings = vec![("max_prepared_transactions".to_owned(), "5".to_owned())];
    Postgres::start(PostgresOptions { settings, ..PostgresOptions::default() }).await
}

/// Opens a transaction that has written something, in a database of its own.
async fn left_open(server: &Postgres, database: &str) -> Client {
    server.create_database(database).await;
    let client = server.client(database).await;
    // Separate calls, because one call would be one transaction.
    for statements in ["CREATE TABLE bills (n int)", "SET application_name = 'nightly'", BEGIN] {
        client.batch_execute(statements).await.unwrap();
    }
    client
}

async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

fn waits(shown: &serde_json::Value) -> bool {
    shown["reason"].as_str().is_some_and(|reason| reason.contains("waits for transactions open since"))
}

/// Checks that no slot of the stage exists, not even one that is being created.
async fn no_slot_is_left(stage: &Stage) {
    let client = stage.client().await;
    let slots = "SELECT FROM pg_replication_slots WHERE starts_with(slot_name, $1)";
    eventually("the server process that makes the slot has ended", async || {
        client.execute(slots, &[&stage.slot()]).await.unwrap() == 0
    })
    .await;
}

async fn is_being_made(stage: &Stage) {
    let client = stage.client().await;
    let waiting =
        "SELECT FROM pg_replication_slots s JOIN pg_locks l ON l.pid = s.active_pid AND NOT l.granted
                   WHERE starts_with(s.slot_name, $1) AND s.confirmed_flush_lsn IS NULL";
    eventually("the slot is being made", async || {
        client.execute(waiting, &[&stage.slot()]).await.unwrap() > 0
    })
    .await;
}

#[tokio::test]
async fn a_first_start_names_the_open_and_prepared_transactions_that_it_waits_for() {
    let server = server().await;
    let mut stage = Stage::on("waits", &server, shared_rabbitmq().await).await;
    stage.consume().await;
    stage.write_row("a", 1, "OrderCreated").await;
    let open = left_open(&server, "billing").await;
    let prepared = server.client("billing").await;
    prepared
        .batch_execute("BEGIN; INSERT INTO bills VALUES (2); PREPARE TRANSACTION 'orphan'")
        .await
        .unwrap();
    let session = format!(
        "(server process {}, database \"billing\", user \"postgres\", application \"nightly\")",
        pid(&open).await
    );
    let gid = "(prepared, gid 'orphan', database \"billing\", user \"postgres\")";
    let ends = format!("SELECT pg_terminate_backend({});", pid(&open).await);
    let cures = [&*ends, "in database \"billing\": ROLLBACK PREPARED 'orphan';"];

    let prepared_daemon = Daemon::prepare(&stage.config());
    eventually("check warns", async || {
        let said = say(&prepared_daemon, &["check"]).await;
        assert_eq!(said.status, 0, "it is no fault");
        let named = [&*session, gid].into_iter().chain(cures).all(|part| said.stdout.contains(part));
        said.stdout.contains("warning  open transactions") && named
    })
    .await;

    let mut daemon = alive(&stage.config()).await;
    let shown = until(&daemon, "orders", waits).await;
    let reason = shown["reason"].as_str().unwrap();
    for part in [&*session, gid].into_iter().chain(cures) {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let (status, text) = daemon.readyz().await;
    assert!(status == 503 && text.contains(gid), "{status} {text}");
    eventually("the log names them", async || {
        let log = daemon.log();
        ["nightly", "orphan"].iter().all(|part| log.contains(part))
    })
    .await;
    // An instance that waits for the slot of a waiting instance is not ready either.
    let second = alive(&stage.config()).await;
    let shown = until(&second, "orders", waits).await;
    assert!(shown["reason"].as_str().unwrap().contains("application \"outboxd orders\""), "{shown}");
    assert_eq!(second.readyz().await.0, 503);

    open.batch_execute("COMMIT").await.unwrap();
    prepared.batch_execute("ROLLBACK PREPARED 'orphan'").await.unwrap();
    until_state(&daemon, "orders", "streaming").await;
    until_state(&second, "orders", "standby").await;
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn the_server_process_that_makes_the_slot_ends_with_outboxd() {
    let server = server().await;
    if is_older_than_14(&server).await {
        println!("skipped: PostgreSQL 13 does not look whether its client is there while it waits");
        return;
    }
    let open = left_open(&server, "billing").await;
    for backlog in ["publish", "skip"] {
        let mut stage = Stage::on(&format!("ends{backlog}"), &server, shared_rabbitmq().await).await;
        stage.source = format!("backlog = \"{backlog}\"");
        let mut daemon = alive(&stage.config()).await;
        until(&daemon, "orders", waits).await;
        is_being_made(&stage).await;
        daemon.kill9().await;
        no_slot_is_left(&stage).await;

        daemon.start_again();
        until_alive(&daemon).await;
        let shown = until(&daemon, "orders", waits).await;
        assert!(!shown["reason"].as_str().unwrap().contains("nother instance"), "{shown}");
        is_being_made(&stage).await;
        assert!(daemon.sigterm(PATIENCE).await.success());
        no_slot_is_left(&stage).await;
    }
    drop(open);
}

#[tokio::test]
async fn setup_and_recover_say_which_transactions_they_wait_for_and_leave_nothing_when_they_are_killed() {
    let server = server().await;
    let open = left_open(&server, "billing").await;
    let older = is_older_than_14(&server).await;
    for command in [&["setup"][..], &["recover", "--source", "orders"]] {
        let stage = Stage::on(&unique(command[0]), &server, shared_rabbitmq().await).await;
        let daemon = Daemon::prepare(&stage.config());
        if !older {
            let mut killed = daemon.begin_command(command);
            is_being_made(&stage).await;
            killed.kill().await.unwrap();
            no_slot_is_left(&stage).await;
        }
        let mut waiting = daemon.begin_command(command);
        let mut log = BufReader::new(waiting.stderr.take().unwrap()).lines();
        loop {
            let line = log.next_line().await.unwrap().expect("it says whom it waits for");
            if line.contains("waits for transactions open since") && line.contains("nightly") {
                break;
            }
        }
        open.batch_execute("COMMIT").await.unwrap();
        let read_on = async { while log.next_line().await.unwrap().is_some() {} };
        let (ended, ()) = tokio::join!(waiting.wait(), read_on);
        assert!(ended.unwrap().success());
        open.batch_execute(BEGIN).await.unwrap();
    }
}

async fn is_older_than_14(server: &Postgres) -> bool {
    let sql = "SELECT current_setting('server_version_num')::int4 < 140000";
    server.client("postgres").await.query_one(sql, &[]).await.unwrap().get(0)
}
