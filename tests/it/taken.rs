//! A publisher queue with another owner although the slot is ours: not a standby, but a source that needs an operator.

use std::time::Duration;

use lapin::{Channel, Connection, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable};

use crate::stage::{Stage, alive, eventually, say, until, until_state};
use testkit::{Daemon, RabbitMq, shared_rabbitmq};

/// Declares the publisher queue of the stage's source before outboxd does; returns its name.
async fn take(stage: &Stage, options: QueueDeclareOptions) -> (Connection, Channel, String) {
    let identifier = "SELECT system_identifier::text FROM pg_control_system()";
    let server: String = stage.client().await.query_one(identifier, &[]).await.unwrap().get(0);
    let queue = format!("outboxd.publisher.{}.{server}", stage.slot());
    let connection = Connection::connect(&stage.amqp_url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
    (connection, channel, queue)
}

/// Waits until the daemon reports the queue's owner; returns the reason.
async fn until_told(daemon: &Daemon, queue: &str) -> String {
    let reason = until_state(daemon, "orders", "blocked").await;
    println!("{reason}");
    for part in [queue, "this instance has the slot", "nothing is published", "longer than a takeover takes"]
    {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let (status, text) = daemon.readyz().await;
    assert!(status == 503 && text.contains(queue), "{status}: {text}");
    eventually("the log names the command", async || daemon.log().contains("list_queues")).await;
    reason
}

/// Lists the virtual host's queues with the command of the reason.
async fn owner(broker: &RabbitMq, stage: &Stage, queue: &str) -> String {
    let listed = broker.ctl(&["list_queues", "-q", "-p", &stage.name, "name", "owner_pid"]).await;
    let line = listed.lines().find(|line| line.starts_with(queue)).expect("the queue is listed");
    line.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

async fn stage(test: &str) -> Stage {
    let mut stage = Stage::shared(test).await;
    // The broker closes the connection of a hanging instance after three seconds.
    stage.rabbitmq = "heartbeat_s = 1".into();
    stage.consume().await;
    stage
}

#[tokio::test]
async fn a_publisher_queue_that_another_connection_has_makes_the_source_not_ready() {
    let stage = stage("taken").await;
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let (thief, _channel, queue) = take(&stage, exclusive).await;
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert!(
        said.status == 0 && said.stdout.contains(&format!("  warning  queue '{queue}'")),
        "{}",
        said.stdout
    );
    let daemon = alive(&stage.config()).await;
    stage.write_row("a", 1, "OrderCreated").await;
    let reason = until_told(&daemon, &queue).await;
    assert!(reason.contains("rabbitmqctl close_connection"), "{reason}");
    assert_eq!(daemon.count("orders", "messages_published_total").await, 0);

    let node = shared_rabbitmq().await;
    let pid = owner(node, &stage, &queue).await;
    assert!(pid.starts_with('<'), "{pid}");
    let connections =
        node.ctl(&["list_connections", "-q", "pid", "name", "user", "peer_host", "peer_port"]).await;
    assert!(connections.lines().any(|line| line.starts_with(&pid)), "{pid} in {connections}");
    node.ctl(&["close_connection", &pid, "not yours"]).await;
    until(&daemon, "orders", |shown| shown["state"] == "streaming").await;
    assert_eq!(daemon.readyz().await.0, 200);
    assert!(stage.verdict().await.keeps_promises());
    drop(thief);
}

/// Such a queue outlives the connection that declared it.
#[tokio::test]
async fn a_publisher_queue_that_is_not_exclusive_is_nobodys_and_makes_the_source_not_ready() {
    let stage = stage("nobodys").await;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    let (maker, _channel, queue) = take(&stage, durable).await;
    maker.close(200, "gone".into()).await.unwrap();
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert!(said.status == 1 && said.stdout.contains("although nobody uses the slot"), "{}", said.stdout);
    let daemon = alive(&stage.config()).await;
    stage.write_row("a", 1, "OrderCreated").await;
    let reason = until_told(&daemon, &queue).await;
    assert!(reason.contains("no connection (0 consumers, 0 messages)"), "{reason}");
    assert!(reason.contains(&format!("rabbitmqctl delete_queue -p VHOST {queue}")), "{reason}");

    shared_rabbitmq().await.ctl(&["delete_queue", "-p", &stage.name, &queue]).await;
    until(&daemon, "orders", |shown| shown["state"] == "streaming").await;
    eventually("the row arrives", async || stage.oracle.distinct_count() == 1).await;
    assert!(stage.verdict().await.keeps_promises());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(daemon.readyz().await.0, 200);
}
