//! Full queues that reject: which messages wait, which pass, and the cost for other queues.

use lapin::types::AMQPValue;

use crate::{
    copies::{Copies, bound_queue},
    parked::{parked_rows, until_parked},
    stage::{PATIENCE, Stage, eventually, say, source, until, until_alive, until_state},
};
use testkit::Daemon;

const FAST: &str = "delivery.backoff_min_ms = 50\ndelivery.backoff_max_ms = 400\n";

/// A queue for all messages that accepts one and rejects the others.
async fn full_queue(test: &str) -> Stage {
    let mut stage = Stage::shared(test).await;
    let full = [
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    bound_queue(&stage.amqp_url, "full", "Order.events", "#", &full).await;
    stage.source = FAST.to_owned();
    stage
}

/// Consumes from the full queue, so that it has room.
async fn empty(stage: &Stage) -> Copies {
    Copies::of(&stage.amqp_url, "full").await
}

/// Waits until the source is blocked, and checks its reason.
async fn until_blocked(daemon: &Daemon, messages: usize) -> String {
    let shown =
        until(daemon, "orders", |shown| shown["state"] == "blocked" && shown["nacked_waiting"] == messages)
            .await;
    let reason = shown["reason"].as_str().unwrap().to_owned();
    println!("{reason}");
    let count = format!("nacked {messages} messages since 20");
    for named in [&count, "'Order.events'", "'OrderCreated'", "x-max-length", "reject-publish", "on_nack"] {
        assert!(reason.contains(named), "{named}: {reason}");
    }
    let (status, text) = daemon.readyz().await;
    assert!(status == 503 && text.contains("reject-publish"), "{status}: {text}");
    assert_eq!(shown["in_flight"], messages, "{shown}");
    assert!(shown["nacked_since"].is_string(), "{shown}");
    assert_eq!(daemon.count("orders", "nacked_messages").await, messages);
    assert!(daemon.count("orders", "nacked_since_timestamp_seconds").await > 1_700_000_000);
    reason
}

#[tokio::test]
async fn a_full_queue_alone_is_said_with_what_waits_for_it_and_a_drain_says_nacks() {
    let stage = full_queue("full_alone").await;
    let config = format!("drain_timeout_s = 2\n{}", stage.config());
    let mut daemon = Daemon::start(&config);
    daemon.wait_ready(PATIENCE).await;
    for number in 0..6 {
        stage.write_row(&format!("a{number}"), 1, "OrderCreated").await;
    }
    until_blocked(&daemon, 5).await;
    assert_eq!(daemon.count("orders", "messages_confirmed_total").await, 1);
    let nacked = daemon.count("orders", "messages_nacked_total").await;
    eventually("they are tried again", async || {
        assert_eq!(source(&daemon, "orders").await["state"], "blocked");
        daemon.count("orders", "messages_nacked_total").await >= nacked + 10
    })
    .await;
    let lines = daemon.log().matches("RabbitMQ nacked").count();
    assert_eq!(lines, 1, "one line and not one for each nack: {}", daemon.log());

    assert_eq!(daemon.sigterm(PATIENCE).await.code(), Some(1));
    let log = daemon.log();
    assert!(log.contains("RabbitMQ nacks 5 messages (exchange 'Order.events'"), "{log}");
    assert!(!log.contains("unroutable"), "{log}");

    daemon.start_again();
    until_alive(&daemon).await;
    until_blocked(&daemon, 5).await;
    let copies = empty(&stage).await;
    copies.until(6).await;
    until_state(&daemon, "orders", "streaming").await;
    assert_eq!(copies.count().1, 1, "the queue took each of them once");
    assert_eq!(daemon.count("orders", "nacked_messages").await, 0);
    assert_eq!(daemon.metric("outboxd_nacked_since_timestamp_seconds{source=\"orders\"}").await, None);
    assert_eq!(daemon.reconnects("orders", "rabbitmq").await, 0);
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// The healthy queue gets every message at once, then one copy in each wait, however many messages wait for the full queue.
#[tokio::test]
async fn a_healthy_queue_beside_a_full_one_gets_every_message_and_is_not_flooded() {
    const ROWS: usize = 200;
    let stage = full_queue("full_beside").await;
    bound_queue(&stage.amqp_url, "healthy", "Order.events", "#", &[]).await;
    let healthy = Copies::of(&stage.amqp_url, "healthy").await;
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write_large(ROWS).await;
    healthy.until(ROWS).await;
    until_blocked(&daemon, ROWS - 1).await;
    let nacked = daemon.count("orders", "messages_nacked_total").await;
    eventually("they are tried again", async || {
        daemon.count("orders", "messages_nacked_total").await >= nacked + 10
    })
    .await;
    let nacked = daemon.count("orders", "messages_nacked_total").await;
    let (messages, most) = healthy.count();
    println!("{nacked} nacks: {messages} messages, {} deliveries, {most} of one", healthy.total());
    assert_eq!(messages, ROWS);
    assert!(most <= 3, "{most} copies of one");
    // At most one copy in each wait, and a little more than 5 s of waits have passed.
    assert!(healthy.total() < 2 * ROWS, "{}", healthy.total());
    let (before, total) = (nacked, healthy.total());
    eventually("each nack is one copy", async || healthy.total() >= total + 3).await;
    let nacked = daemon.count("orders", "messages_nacked_total").await;
    assert!(healthy.total() - total <= nacked - before + 3, "{} {total} {nacked} {before}", healthy.total());

    // With room for a few messages at a time, a few more copies are sent, and every message arrives.
    let copies = empty(&stage).await;
    copies.until(ROWS).await;
    until_state(&daemon, "orders", "streaming").await;
    assert_eq!(copies.count().1, 1);
    println!("in the end {} deliveries", healthy.total());
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn what_a_full_queue_does_not_take_is_parked_where_that_is_wanted_and_other_keys_go_on() {
    let mut stage = Stage::shared("full_park").await;
    let full = [
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    bound_queue(&stage.amqp_url, "full", "Order.events", "OrderCreated", &full).await;
    stage.source = format!("{FAST}delivery.on_nack = \"park\"\n");
    stage.consume_only("OrderChanged").await;
    let mut daemon = stage.relay_as_printed_role().await;
    for number in 0..4 {
        stage.write_unseen(&format!("f{number}"), "OrderCreated").await;
        stage.write_row("other", number + 1, "OrderChanged").await;
    }
    until_parked(&stage, 3).await;
    stage.verdict().await.assert_delivered(0);
    let rows = parked_rows(&stage.client().await).await;
    for (_, cause, reason) in &rows {
        assert!(cause == "nacked" && reason.contains("reject-publish"), "{cause}: {reason}");
    }
    assert_eq!(rows.len(), 3);
    until_state(&daemon, "orders", "streaming").await;
    assert_eq!(source(&daemon, "orders").await["in_flight"], 0);
    // Requeued rows stay parked, with the reason, while the queue is full; with room they are delivered.
    let requeue = ["parked", "requeue", "--source", "orders", "--all"];
    let said = say(&daemon, &requeue).await;
    assert!(said.stdout.contains("nack"), "{}", said.stdout);
    let copies = empty(&stage).await;
    copies.until(1).await;
    eventually("all are requeued", async || {
        say(&daemon, &requeue).await;
        parked_rows(&stage.client().await).await.is_empty()
    })
    .await;
    copies.until(4).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
}
