//! A quorum queue without a leader: it confirms nothing, while other queues do.

use lapin::types::AMQPValue;

use crate::{
    copies::{Copies, bound_queue},
    stage::{PATIENCE, Stage, until, until_alive, until_state},
};
use testkit::{Daemon, RabbitMq, RabbitMqOptions, shared_postgres};

/// Runs a function of the node on one of its quorum queues.
async fn queue_server(broker: &RabbitMq, stage: &Stage, function: &str) {
    let server = format!("{{'{}_leaderless', node()}}", stage.name);
    let said = broker.eval(&format!("ra:{function}(quorum_queues, {server}).")).await;
    assert!(said.contains("ok"), "{said}");
}

#[tokio::test]
async fn a_queue_without_a_leader_is_suspected_and_said_and_costs_its_neighbours_few_copies() {
    let broker = RabbitMq::start(RabbitMqOptions::default()).await;
    let mut stage = Stage::on("leaderless", shared_postgres().await, &broker).await;
    stage.rabbitmq = "confirm_timeout_ms = 1500".to_owned();
    stage.source = "delivery.backoff_min_ms = 20\ndelivery.backoff_max_ms = 1000".to_owned();
    let quorum = [("x-queue-type", AMQPValue::LongString("quorum".into()))];
    bound_queue(&stage.amqp_url, "leaderless", "Order.events", "Stuck", &quorum).await;
    bound_queue(&stage.amqp_url, "healthy", "Order.events", "Stuck", &[]).await;
    let healthy = Copies::of(&stage.amqp_url, "healthy").await;
    stage.consume_only("OrderChanged").await;
    let mut daemon = Daemon::start(&stage.config());
    daemon.wait_ready(PATIENCE).await;
    stage.write_unseen("s0", "Stuck").await;
    healthy.until(1).await;
    until(&daemon, "orders", |shown| shown["in_flight"] == 0).await;

    queue_server(&broker, &stage, "stop_server").await;
    for number in 1..=5 {
        stage.write_unseen(&format!("s{number}"), "Stuck").await;
    }
    healthy.until(6).await;
    // Messages to other queues are confirmed.
    for number in 1..=20 {
        stage.write_row("other", number, "OrderChanged").await;
    }
    stage.verdict().await.assert_delivered(0);
    let reason = until_state(&daemon, "orders", "blocked").await;
    println!("{reason}");
    for named in ["'Order.events'", "'Stuck'", "quorum_status", "while others are confirmed"] {
        assert!(reason.contains(named), "{named}: {reason}");
    }
    // outboxd reconnects because of it. On a new channel RabbitMQ does not find the queue's leader, and nacks.
    let shown =
        until(&daemon, "orders", |shown| shown["reason"].to_string().contains("nacked 5 messages")).await;
    println!("{shown}");
    let reason = shown["reason"].as_str().unwrap();
    assert!(shown["state"] == "blocked" && reason.contains("quorum_status"), "{shown}");
    assert_eq!(daemon.readyz().await.0, 503);
    let nacked = daemon.count("orders", "messages_nacked_total").await;
    let total = healthy.total();
    assert!(total <= 6 + 5 + nacked, "{total} deliveries, {nacked} nacks");
    stage.write_row("other", 21, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);

    queue_server(&broker, &stage, "restart_server").await;
    until_state(&daemon, "orders", "streaming").await;
    until(&daemon, "orders", |shown| shown["in_flight"] == 0).await;
    println!("{:?}, {} deliveries", healthy.count(), healthy.total());
    let copies = Copies::of(&stage.amqp_url, "leaderless").await;
    copies.until(6).await;
    until_alive(&daemon).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
}
