//! The daemon restarts under load: a clean end repeats nothing, a kill repeats a bounded number.

use std::time::{Duration, Instant};

use crate::stage::{PATIENCE, Stage, eventually};
use testkit::Daemon;

pub(crate) const IN_FLIGHT_MAX: usize = 64;

#[tokio::test]
async fn a_clean_restart_under_load_repeats_nothing() {
    const LARGE: usize = 10_000;
    let mut stage = Stage::shared("restart").await;
    stage.workload.pause = Duration::from_millis(5);
    stage.source = "delivery.in_flight_max = 500".to_owned();
    stage.consume().await;
    // A large transaction takes its time on a busy machine.
    let config = format!("drain_timeout_s = {}\n{}", PATIENCE.as_secs(), stage.config());
    let mut daemon = Daemon::start(&config);
    daemon.wait_ready(PATIENCE).await;
    let writing = stage.keep_writing();
    for _ in 0..4 {
        stage.receive_more(200).await;
        daemon.restart().await;
    }
    daemon.wait_ready(PATIENCE).await;

    // In the middle of a large transaction, with small ones committed after it.
    let small = daemon.count("orders", "messages_published_total").await;
    stage.write_large(LARGE).await;
    eventually("some of the large transaction is published", async || {
        daemon.count("orders", "messages_published_total").await > small + 1000
    })
    .await;
    let published = daemon.count("orders", "messages_published_total").await - small;
    assert!(published < LARGE, "the transaction is not under way any more");
    println!("SIGTERM after {published} rows of the transaction");
    assert!(daemon.sigterm(PATIENCE).await.success());

    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    writing.stop().await;
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn kill_9_under_load_loses_nothing_and_repeats_little() {
    let mut stage = Stage::shared("kill").await;
    stage.workload.pause = Duration::from_millis(5);
    stage.source = format!("delivery.in_flight_max = {IN_FLIGHT_MAX}");
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    let writing = stage.keep_writing();
    let mut allowed_in_all = 0;
    for kill in 1..=4 {
        stage.receive_more(300).await;
        let before = stage.oracle.verdict().duplicates;
        let allowed = kill_9(&stage, &mut daemon).await;
        allowed_in_all += allowed;
        daemon.start_again();
        // Copies come first, because the order is total.
        stage.receive_more(300).await;
        let repeated = stage.oracle.verdict().duplicates - before;
        println!("kill {kill}: {repeated} repeated, {allowed} allowed");
        assert!(repeated <= allowed, "kill {kill}: {repeated} repeated, {allowed} allowed");
    }
    writing.stop().await;
    stage.verdict().await.assert_delivered(allowed_in_all);
}

/// Kills the daemon. Returns the number of messages that its successor may repeat: those in flight, those confirmed after the
/// last status update (every 100 ms; half as long again for a busy machine), and the confirmed rows of an incomplete transaction.
pub(crate) async fn kill_9(stage: &Stage, daemon: &mut Daemon) -> usize {
    let confirmed = async |daemon: &Daemon| daemon.count("orders", "messages_confirmed_total").await;
    let (before, since) = (confirmed(daemon).await, Instant::now());
    tokio::time::sleep(Duration::from_millis(150)).await;
    let (after, window) = (confirmed(daemon).await, since.elapsed());
    daemon.kill9().await;
    let rate = (after - before) as f64 / window.as_secs_f64();
    println!("{rate:.0} messages confirmed a second");
    let unreported = (rate * since.elapsed().as_secs_f64()).ceil() as usize;
    IN_FLIGHT_MAX + unreported + stage.workload.rows_max
}
