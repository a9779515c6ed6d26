//! Subscription queues that are deleted while outboxd runs.

use serde_json::Value;

use crate::stage::{PATIENCE, Stage, eventually, source, until, until_state};
use testkit::Daemon;

const SUBSCRIBED: &str =
    "[[subscriptions]]\nqueue = 'subscribed'\nexchange = 'Order.events'\nqueue_type = 'classic'\n";

/// The queue in `/status`.
async fn subscribed(daemon: &Daemon) -> Value {
    let status = daemon.status().await;
    let queues = status["subscriptions"].as_array().expect("a list of queues").clone();
    queues.into_iter().find(|shown| shown["queue"] == "subscribed").unwrap_or_default()
}

async fn until_seen(daemon: &Daemon) {
    eventually("the queues are looked at", async || {
        subscribed(daemon).await["missing"] == Value::Null && subscribed(daemon).await != Value::Null
    })
    .await;
}

/// The only queue: its messages are returned. No policy for unroutable messages applies to them.
#[tokio::test]
async fn a_queue_that_is_deleted_is_declared_anew_before_policy_has_its_messages() {
    let mut stage = Stage::shared("deleted").await;
    stage.source = format!("delivery.on_unroutable = \"park\"\n{SUBSCRIBED}");
    let mut daemon = stage.relay_as_printed_role().await;
    until_seen(&daemon).await;
    stage.write_unseen("a", "OrderCreated").await;
    until(&daemon, "orders", |shown| shown["confirmed"] == 1).await;

    stage.delete_queue("subscribed").await;
    for event_type in ["OrderChanged", "OrderClosed"] {
        stage.write_unseen("a", event_type).await;
    }
    let shown = until(&daemon, "orders", |shown| shown["confirmed"] == 3).await;
    assert_eq!((&shown["parked"], &shown["last_error"]), (&0.into(), &Value::Null), "{shown}");
    assert!(shown["returned"].as_u64() > Some(0), "{shown}");
    assert_eq!(stage.messages_in("subscribed").await, 2);
    eventually("the loss is told", async || subscribed(&daemon).await["recreated"] == 1).await;
    let log = daemon.log();
    assert!(log.contains("ERROR") && log.contains("the queue of a subscription was deleted"), "{log}");
    assert!(
        log.contains("outboxd replay --source NAME --since TIME") && log.contains("and not after 2"),
        "{log}"
    );

    // A message that no subscription expects is still unroutable.
    stage
        .sql(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Other', 'a', 'E', '{}')",
        )
        .await;
    until(&daemon, "orders", |shown| shown["parked"] == 1).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// Beside another queue nothing is returned, so only the regular look finds the loss.
#[tokio::test]
async fn a_deleted_queue_beside_another_is_found_by_the_regular_look() {
    let mut stage = Stage::shared("beside").await;
    stage.source = SUBSCRIBED.to_owned();
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let daemon = stage.relay_as_printed_role().await;
    until_seen(&daemon).await;
    stage.delete_queue("subscribed").await;
    stage.write_unseen("a", "OrderCreated").await;
    inbox.next().await;
    eventually("it is declared anew", async || subscribed(&daemon).await["recreated"] == 1).await;
    assert_eq!(source(&daemon, "orders").await["returned"], 0);
    stage.write_unseen("a", "OrderChanged").await;
    inbox.next().await;
    eventually("it is bound again", async || stage.messages_in("subscribed").await == 1).await;
    assert!(daemon.log().contains("the queue of a subscription was deleted"), "{}", daemon.log());
}

/// outboxd may not declare the queue: it is not ready, and names the next step.
#[tokio::test]
async fn a_deleted_queue_that_may_not_be_declared_is_a_reason_not_to_be_ready() {
    let mut stage = Stage::shared("foreign").await;
    stage.source = SUBSCRIBED.to_owned();
    let mut daemon = stage.relay_as_printed_role().await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    drop(daemon);
    stage.rabbitmq = "declare = false".to_owned();
    let daemon = stage.relay_as_printed_role().await;
    until_seen(&daemon).await;
    stage.delete_queue("subscribed").await;
    stage.write_unseen("a", "OrderCreated").await;
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("bind one"), "{reason}");
    eventually("the missing queue is reported", async || subscribed(&daemon).await["missing"].is_string())
        .await;
    let (status, text) = daemon.readyz().await;
    assert_eq!(status, 503);
    assert!(text.contains("subscription subscribed: gets no messages: queue 'subscribed'"), "{text}");
}
