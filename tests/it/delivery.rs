//! Committed rows arrive, once, in order, and nothing else does.

use crate::stage::{PATIENCE, Stage};

#[tokio::test]
async fn every_committed_row_arrives_once_in_order_and_no_rolled_back_one() {
    let mut stage = Stage::shared("delivery").await;
    stage.workload.transactions = 500;
    stage.workload.rollback_percent = 25;
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write().await;
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn a_lost_replication_connection_repeats_nothing_that_the_broker_has() {
    let mut stage = Stage::shared("walsender_ends").await;
    stage.workload.transactions = 1500;
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    let client = stage.client().await;
    let end_walsender =
        "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE slot_name = $1";
    let disturb = async {
        let mut ended = 0;
        while ended < 4 {
            ended += client.query_one(end_walsender, &[&stage.slot()]).await.expect("asked").get::<_, i64>(0);
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        }
    };
    tokio::join!(stage.write(), disturb);
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());
}
