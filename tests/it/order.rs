//! Order under writers that compete for few aggregates.

use std::time::Duration;

use crate::stage::{PATIENCE, Stage, source};
use testkit::{Consumer, Oracle, Workload};

/// Three aggregate types go to three exchanges. Each exchange is used for the first time while the others are busy.
async fn three_exchanges_under_conflict(ordering: &str) {
    let mut stage = Stage::shared("order").await;
    stage.source = format!("delivery.ordering = \"{ordering}\"\n");
    let mut daemon = stage.relay_as_printed_role().await;
    let parts = ["Order", "Invoice", "Shipment"].map(|aggregate_type| {
        let workload = Workload {
            aggregate_type: aggregate_type.into(),
            writers: 3,
            transactions: 200,
            aggregates: 3,
            rows_max: 6,
            rollback_percent: 20,
            seed: fastrand::u64(..),
            ..stage.workload.clone()
        };
        (workload, Oracle::default())
    });
    let mut consumers = Vec::new();
    for (workload, oracle) in &parts {
        let exchange = format!("{}.events", workload.aggregate_type);
        let queue = format!("{}_{}", stage.name, workload.aggregate_type);
        consumers.push(Consumer::start(&stage.amqp_url, &exchange, &queue, "#", oracle).await);
    }
    let [first, second, third] = &parts;
    let later = async |part: &(Workload, Oracle), after: &Oracle| {
        while after.received_count() < 30 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        part.0.run(&stage.postgres_url, &part.1).await;
    };
    tokio::join!(
        first.0.run(&stage.postgres_url, &first.1),
        later(second, &first.1),
        later(third, &second.1)
    );
    for (_, oracle) in &parts {
        let verdict = oracle.settle(PATIENCE, Duration::from_millis(300)).await;
        println!("{ordering}: {verdict}");
        verdict.assert_delivered(0);
    }
    let shown = source(&daemon, "orders").await;
    assert_eq!((shown["nacked"].as_u64(), shown["returned"].as_u64()), (Some(0), Some(0)));
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn order_holds_under_conflict_per_aggregate() {
    three_exchanges_under_conflict("per-aggregate").await;
}

#[tokio::test]
async fn order_holds_under_conflict_pipelined() {
    three_exchanges_under_conflict("pipelined").await;
}
