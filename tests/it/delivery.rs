//! What was committed arrives, once, in order, and nothing else does.

use crate::stage::{PATIENCE, Stage};

#[tokio::test]
async fn every_committed_row_arrives_once_in_order_and_no_rolled_back_one() {
    let mut stage = Stage::shared("delivery").await;
    stage.workload.transactions = 500;
    stage.workload.rollback_percent = 25;
    stage.consume().await;
    let mut daemon = stage.relay().await;
    stage.write().await;
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());
}
