//! outboxd beside an application in each pod: the application ends first, and its rows leave with the pod or with another one.

use std::time::Duration;

use testkit::Daemon;

use crate::stage::{PATIENCE, Stage, source};

/// Messages that arrive between two events.
const FLOW: usize = 100;

async fn publishes(pod: &Daemon) -> bool {
    source(pod, "orders").await["state"] == "streaming"
}

/// Three pods of one application end, the one that publishes first. In the last one the application ends, and then outboxd.
#[tokio::test]
async fn rows_of_an_application_that_ends_are_published_by_the_pod_or_by_its_successor() {
    let mut stage = Stage::flowing("sidecar").await;
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut pods = Vec::new();
    for _ in 0..3 {
        let mut pod = Daemon::start(&config);
        pod.wait_ready(PATIENCE).await;
        pods.push(pod);
    }
    let application = stage.keep_writing();
    while pods.len() > 1 {
        stage.receive_more(FLOW).await;
        let mut publisher = 0;
        for (index, pod) in pods.iter().enumerate() {
            if publishes(pod).await {
                publisher = index;
            }
        }
        let mut outboxd = pods.remove(publisher);
        assert!(outboxd.sigterm(PATIENCE).await.success(), "{}", outboxd.log());
    }
    stage.receive_more(FLOW).await;
    application.stop().await;
    let mut last = pods.remove(0);
    assert!(last.sigterm(PATIENCE).await.success(), "{}", last.log());
    // Rows that the last outboxd had not read wait for the next pod.
    println!("{} of {} rows had left", stage.oracle.distinct_count(), stage.oracle.committed_count());
    last.start_again();
    last.wait_ready(PATIENCE).await;
    stage.verdict().await.assert_delivered(0);
}

/// As an ordinary container outboxd gets SIGTERM while the application still writes. The rows wait, and nothing is lost.
#[tokio::test]
async fn rows_that_an_application_writes_after_its_outboxd_ended_wait_for_the_next_pod() {
    let mut stage = Stage::flowing("container").await;
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut outboxd = Daemon::start(&config);
    outboxd.wait_ready(PATIENCE).await;
    let application = stage.keep_writing();
    stage.receive_more(FLOW).await;
    assert!(outboxd.sigterm(PATIENCE).await.success(), "{}", outboxd.log());
    tokio::time::sleep(Duration::from_secs(1)).await;
    application.stop().await;
    let arrived = stage.oracle.distinct_count();
    outboxd.start_again();
    outboxd.wait_ready(PATIENCE).await;
    stage.receive_more(1).await;
    stage.verdict().await.assert_delivered(0);
    assert!(stage.oracle.distinct_count() > arrived);
}
