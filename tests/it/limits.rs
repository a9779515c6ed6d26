//! Limits of the broker: outboxd names each with the command that raises it, and continues where possible.

use hyper::Method;
use serde_json::json;

use crate::stage::{PATIENCE, Stage, alive, say, until};
use testkit::{Daemon, RabbitMq, shared_rabbitmq, unique};

async fn limit_vhost(node: &RabbitMq, vhost: &str, name: &str, value: i64) {
    node.api(Method::PUT, &format!("/api/vhost-limits/{vhost}/{name}"), json!({ "value": value })).await;
}

/// The reason of a state, once it names RabbitMQ.
async fn reason(daemon: &Daemon, state: &str) -> String {
    let is_refused = |shown: &serde_json::Value| {
        shown["state"] == state && shown["reason"].as_str().is_some_and(|reason| reason.contains("RabbitMQ"))
    };
    until(daemon, "orders", is_refused).await["reason"].to_string()
}

#[tokio::test]
async fn a_queue_limit_is_named_with_the_command_that_raises_it() {
    let mut stage = Stage::shared("queuelimit").await;
    let node = shared_rabbitmq().await;
    stage.source = format!(
        "[[subscriptions]]\nqueue = \"{}.subscribed\"\nexchange = \"Order.events\"\nqueue_type = \"classic\"\n",
        stage.name
    );
    limit_vhost(node, &stage.name, "max-queues", 1).await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert_eq!(said.status, 1);
    assert!(said.stdout.contains("  FAILED   room for queues"), "{}", said.stdout);
    assert!(
        said.stdout.contains("2 queues are missing, and the limit leaves room for 1: "),
        "{}",
        said.stdout
    );
    let cure = format!("rabbitmqctl clear_vhost_limits -p {}", stage.name);
    assert!(said.stdout.contains(&cure), "{}", said.stdout);

    let mut daemon = alive(&stage.config()).await;
    let reason = reason(&daemon, "halted").await;
    for part in ["as many queues as it may have", "queue limit in vhost", "max-queues", &cure] {
        assert!(reason.contains(part), "{reason}");
    }
    assert!(!reason.contains("drain and delete") && !reason.contains("differently"), "{reason}");

    node.ctl(&["clear_vhost_limits", "-p", &stage.name]).await;
    daemon.wait_ready(PATIENCE).await;
    stage.consume().await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
}

#[tokio::test]
async fn a_source_without_room_for_its_fence_publishes_and_says_so() {
    let mut stage = Stage::shared("fencelimit").await;
    let node = shared_rabbitmq().await;
    stage.consume().await;
    limit_vhost(node, &stage.name, "max-queues", 1).await;
    let daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    let log = daemon.log();
    assert!(log.contains("publishing without a fence"), "{log}");
    assert!(log.contains("set_vhost_limits"), "{log}");

    let said = say(&daemon, &["check"]).await;
    assert_eq!(said.status, 0, "{}", said.stdout);
    assert!(said.stdout.contains("  warning  queue 'outboxd.publisher."), "{}", said.stdout);
    assert!(said.stdout.contains("clear_vhost_limits"), "{}", said.stdout);
}

#[tokio::test]
async fn limits_of_connections_and_channels_are_not_taken_for_a_missing_vhost() {
    let mut stage = Stage::shared("connectionlimit").await;
    let node = shared_rabbitmq().await;
    let user = unique("limited");
    node.create_user(&user, "secret").await;
    node.allow(&user, &stage.name, [".*"; 3]).await;
    stage.amqp_url = stage.amqp_url.replace("guest:guest@", &format!("{user}:secret@"));
    let check = async |what: &str, cure: &str| {
        let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
        assert_eq!(said.status, 1);
        for part in [what, cure] {
            assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
        }
        assert!(!said.stdout.contains("add_vhost"), "{}", said.stdout);
    };

    limit_vhost(node, &stage.name, "max-connections", 0).await;
    check(
        "connection limit (0) is reached",
        &format!("set_vhost_limits -p {} '{{\"max-connections\"", stage.name),
    )
    .await;
    node.api(Method::DELETE, &format!("/api/vhost-limits/{}/max-connections", stage.name), json!(null)).await;

    let of_user = format!("/api/user-limits/{user}");
    node.api(Method::PUT, &format!("{of_user}/max-connections"), json!({ "value": 0 })).await;
    check("user connection limit (0) is reached", &format!("set_user_limits {user} '{{\"max-connections\""))
        .await;
    node.api(Method::DELETE, &format!("{of_user}/max-connections"), json!(null)).await;

    node.api(Method::PUT, &format!("{of_user}/max-channels"), json!({ "value": 1 })).await;
    let daemon = alive(&stage.config()).await;
    let reason = reason(&daemon, "connecting").await;
    assert!(reason.contains("number of channels opened for user"), "{reason}");
    assert!(reason.contains("set_user_limits USER '") && reason.contains("max-channels"), "{reason}");
    node.delete_user(&user).await;
}
