//! A stderr that nobody reads, or that cannot be written to, loses log lines and nothing else.

use std::time::Duration;

use crate::stage::{PATIENCE, Stage, eventually, until_alive};
use testkit::{Daemon, UnreadPipe};

#[tokio::test]
async fn a_stderr_that_nobody_reads_holds_up_no_message_and_no_end() {
    let mut stage = Stage::shared("unread").await;
    stage.source = "delivery.on_unroutable = \"drop\"".to_owned();
    stage.workload.transactions = 2000;
    stage.consume().await;
    let pipe = UnreadPipe::create();
    let mut daemon = Daemon::prepare(&stage.config());
    daemon.environment.push(("OUTBOXD_LOG".into(), "debug".into()));
    daemon.start_again_logging_to(pipe.path());
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);

    // More rows than the log's queue holds lines, with one line for each row.
    stage
        .sql(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
             SELECT 'Lost', n::text, 'Lost', '{}' FROM generate_series(1, 10000) n",
        )
        .await;
    eventually("all have been dropped", async || {
        daemon.count("orders", "messages_returned_total").await >= 10_000
    })
    .await;
    assert!(daemon.metric("log_lines_lost_total").await > Some(0.0));
    stage.write().await;
    stage.verdict().await.assert_delivered(0);

    let text = pipe.read();
    eventually("the loss is said once somebody reads", async || {
        text.lock().unwrap().contains("log lines were lost here")
    })
    .await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    eventually("the last lines are there", async || text.lock().unwrap().contains("drained")).await;
}

#[tokio::test]
async fn a_stderr_that_nobody_reads_does_not_keep_it_from_ending_with_its_status() {
    let stage = Stage::shared("unread_end").await;
    stage.bind("#").await;
    let pipe = UnreadPipe::create();
    let mut daemon = Daemon::prepare(&stage.config());
    daemon.start_again_logging_to(pipe.path());
    daemon.wait_ready(PATIENCE).await;
    assert!(daemon.sigterm(PATIENCE).await.success());

    let broken = Daemon::prepare("[rabbitmq]\n");
    let file = std::fs::OpenOptions::new().append(true).open(pipe.path()).unwrap();
    let mut command = tokio::process::Command::new(testkit::programs::executable("outboxd"));
    command.arg("--config").arg(broken.config_file()).arg("run").stderr(file).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(78));
}

#[tokio::test]
async fn a_stderr_on_a_full_disk_holds_up_nothing() {
    let mut stage = Stage::shared("full_disk").await;
    stage.workload.transactions = 100;
    stage.consume().await;
    let mut daemon = Daemon::prepare(&stage.config());
    daemon.start_again_logging_to(std::path::Path::new("/dev/full"));
    until_alive(&daemon).await;
    daemon.wait_ready(PATIENCE).await;
    stage.write().await;
    stage.verdict().await.assert_delivered(0);
    eventually("the lines that were lost are counted", async || {
        daemon.metric("log_lines_lost_total").await > Some(0.0)
    })
    .await;
    assert!(daemon.sigterm(PATIENCE + Duration::from_secs(5)).await.success());
}
