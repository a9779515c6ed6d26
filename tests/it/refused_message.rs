//! Messages that RabbitMQ refuses: it closes the channel, or refuses the exchange.

use std::time::Duration;

use hyper::Method;
use lapin::types::AMQPValue;
use serde_json::json;

use crate::{
    copies::{Copies, bound_queue},
    parked::{parked_rows, until_parked},
    stage::{PATIENCE, Stage, eventually, say, source, until, until_alive, until_state},
};
use testkit::{Daemon, Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, consumer, shared_rabbitmq};

const FAST: &str = "delivery.backoff_min_ms = 20\ndelivery.backoff_max_ms = 200\n";
const QUORUM: &str = "quorum";

/// A quorum queue for all messages, a user who may write keys that begin with `Ok`, one transaction of 500 allowed rows of many
/// aggregates and one forbidden row, and one row after it.
async fn forbidden_row(test: &str, more: &str) -> (Stage, Copies, String) {
    let mut stage = Stage::shared(test).await;
    let queue_type = [("x-queue-type", AMQPValue::LongString(QUORUM.into()))];
    bound_queue(&stage.amqp_url, &stage.name, "Order.events", "#", &queue_type).await;
    let copies = Copies::of(&stage.amqp_url, &stage.name).await;
    let broker = shared_rabbitmq().await;
    broker.create_user(&stage.name, "pw").await;
    broker.allow(&stage.name, &stage.name, [".*"; 3]).await;
    allow_keys(&stage, "^Ok").await;
    stage.rabbitmq = format!("username = \"{}\"\npassword = \"pw\"\n", stage.name);
    stage.source = format!("{FAST}{more}");
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
                  SELECT 'Order', 'a' || n, 'Ok', '{\"secret\": \"hidden\"}' FROM generate_series(1, 500) n ORDER BY n";
    let client = stage.client().await;
    client.batch_execute(&format!("BEGIN; {insert}")).await.unwrap();
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'b', 'Nope', '1') \
                  RETURNING id::text";
    let id = client.query_one(insert, &[]).await.unwrap().get(0);
    client.batch_execute("COMMIT").await.unwrap();
    stage.write_row("c", 1, "Ok").await;
    (stage, copies, id)
}

async fn allow_keys(stage: &Stage, write: &str) {
    let path = format!("/api/topic-permissions/{0}/{0}", stage.name);
    let rights = json!({ "exchange": "Order.events", "write": write, "read": ".*" });
    shared_rabbitmq().await.api(Method::PUT, &path, rights).await;
}

#[tokio::test]
async fn a_message_that_costs_the_channel_is_found_and_halts_behind_everything_before_it() {
    let (stage, copies, id) = forbidden_row("forbidden", "").await;
    // First by the backlog, then by the stream after a restart.
    let mut daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    let reason = until_state(&daemon, "orders", "halted").await;
    println!("{reason}");
    let statement = format!("set_topic_permissions -p {0} {0} Order.events", stage.name);
    for named in [id.as_str(), "'Order.events'", "'Nope'", "403 ACCESS_REFUSED", "on_invalid", &statement] {
        assert!(reason.contains(named), "{named}: {reason}");
    }
    copies.until(500).await;
    // The message is retried alone, and the state stays the same.
    let published = daemon.count("orders", "messages_published_total").await;
    eventually("it is tried again", async || {
        assert_eq!(daemon.readyz().await.0, 503);
        assert_eq!(source(&daemon, "orders").await["state"], "halted");
        daemon.count("orders", "messages_published_total").await >= published + 10
    })
    .await;
    let (messages, most) = copies.count();
    println!("{messages} messages, {} deliveries, {most} of one", copies.total());
    assert_eq!(messages, 500, "nothing goes out behind it");
    assert!(most <= 3, "{most} copies of one");
    let in_flight = source(&daemon, "orders").await["in_flight"].as_u64();
    assert!((1..=2).contains(&in_flight.unwrap()), "{in_flight:?}: it, and the one that was sent behind it");
    let total = copies.total();
    for side in ["postgres", "rabbitmq"] {
        assert_eq!(daemon.reconnects("orders", side).await, 0, "{side}");
    }

    allow_keys(&stage, ".*").await;
    copies.until(502).await;
    until_state(&daemon, "orders", "streaming").await;
    assert_eq!(copies.total(), total + 2, "and each of the others once");
    assert!(!daemon.log().contains("hidden"));
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn a_message_that_costs_the_channel_is_parked_and_what_follows_goes_on() {
    let (stage, copies, id) = forbidden_row("forbidden_park", "delivery.on_invalid = \"park\"").await;
    let mut daemon = Daemon::start(&stage.config());
    copies.until(501).await;
    until_parked(&stage, 1).await;
    let (messages, most) = copies.count();
    println!("{messages} messages, {} deliveries, {most} of one", copies.total());
    assert!(messages == 501 && most <= 3, "{messages}, {most} copies of one");
    let rows = parked_rows(&stage.client().await).await;
    let [(Some(parked), cause, reason)] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((parked, cause.as_str()), (&id, "refused"));
    assert!(reason.contains("set_topic_permissions") && reason.contains("'Nope'"), "{reason}");
    daemon.wait_ready(PATIENCE).await;

    // `requeue` meets the same refusal, and reports it.
    let said = say(&daemon, &["parked", "requeue", "--source", "orders", "--all", "--out-of-order"]).await;
    assert!(said.stdout.contains("set_topic_permissions"), "{}", said.stdout);
    allow_keys(&stage, ".*").await;
    let said = say(&daemon, &["parked", "requeue", "--source", "orders", "--all", "--out-of-order"]).await;
    assert_eq!(said.status, 0, "{}", said.stdout);
    copies.until(502).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// With one message in flight, the refusal of the channel can mean only that message.
#[tokio::test]
async fn a_message_alone_whose_exchange_was_deleted_before_it_is_delivered_and_not_parked() {
    let mut stage = Stage::shared("deleted_before").await;
    stage.source = format!("{FAST}delivery.on_invalid = \"park\"\n");
    stage.consume().await;
    let mut daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    until_state(&daemon, "orders", "streaming").await;
    let queue = format!("{}.kept", stage.name);
    let bind = async || consumer::bind(&stage.amqp_url, "Order.events", &queue, "#").await;
    bind().await;
    stage.write_unseen("a", "OrderCreated").await;
    eventually("the exchange is known", async || stage.messages_in(&queue).await == 1).await;
    for deleted in 1..=2 {
        let exchange = format!("/api/exchanges/{}/Order.events", stage.name);
        shared_rabbitmq().await.api(Method::DELETE, &exchange, json!(null)).await;
        stage.write_unseen("a", "OrderCreated").await;
        until(&daemon, "orders", |shown| shown["reason"].to_string().contains("is unroutable")).await;
        bind().await;
        eventually("it is delivered", async || stage.messages_in(&queue).await == 1 + deleted).await;
        until_state(&daemon, "orders", "streaming").await;
    }
    let shown = source(&daemon, "orders").await;
    assert_eq!(
        (&shown["parked_rows"], daemon.reconnects("orders", "rabbitmq").await),
        (&json!(0), 0),
        "{shown}"
    );
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// A later, confirmed message is repeated, and the log names the message that holds it back.
#[tokio::test]
async fn a_message_refused_in_the_stream_repeats_no_more_and_a_drain_leaves_it_for_the_next_start() {
    let (stage, copies, _) = forbidden_row("forbidden_stream", "").await;
    stage.sql("TRUNCATE outbox").await;
    let mut daemon = stage.relay_as_printed_role().await;
    for number in 0..50 {
        stage.write_row(&format!("s{number}"), 1, "Ok").await;
    }
    stage.write_unseen("s", "Nope").await;
    copies.until(50).await;
    until_state(&daemon, "orders", "halted").await;
    stage.write_row("t", 1, "Ok").await;
    assert!(copies.count().1 <= 3);
    let ended = daemon.sigterm(PATIENCE).await;
    println!("{ended}\n{}", daemon.log());
    let total = copies.total();
    allow_keys(&stage, ".*").await;
    daemon.start_again();
    copies.until(52).await;
    assert_eq!(copies.total(), total + 2, "what was confirmed before the refused message is not repeated");
}

#[tokio::test]
async fn a_row_larger_than_the_brokers_limit_names_both_limits_and_goes_on_when_that_is_raised() {
    let (postgres, broker) = tokio::join!(Postgres::start(PostgresOptions::default()), async {
        let settings = vec!["max_message_size = 1048576".to_owned()];
        RabbitMq::start(RabbitMqOptions { settings, ..Default::default() }).await
    });
    let large = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
                 SELECT 'Order', 'large', 'OrderCreated', to_jsonb(string_agg(md5(n::text), ''))
                 FROM generate_series(1, 65536) n";
    let mut stage = Stage::on("large", &postgres, &broker).await;
    stage.source = FAST.to_owned();
    stage.consume().await;
    let daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.sql(large).await;
    stage.write_row("b", 1, "OrderCreated").await;
    let reason = until_state(&daemon, "orders", "halted").await;
    println!("{reason}");
    for named in
        ["delivery.message_bytes_max", "max_message_size", "1048576", "2097154 bytes", "'OrderCreated'"]
    {
        assert!(reason.contains(named), "{named}: {reason}");
    }
    eventually("what stands before it arrives", async || stage.oracle.received_count() >= 1).await;
    assert_eq!(stage.oracle.received_count(), 1);
    assert_eq!(daemon.reconnects("orders", "rabbitmq").await, 0);
    limit(&broker, 16777216).await;
    until_state(&daemon, "orders", "streaming").await;
    eventually("all arrive", async || stage.oracle.received_count() >= 3).await;
    drop(daemon);

    limit(&broker, 1048576).await;
    let mut stage = Stage::on("large_park", &postgres, &broker).await;
    stage.source = format!("{FAST}delivery.on_invalid = \"park\"\n");
    stage.consume().await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.sql(large).await;
    stage.write_row("b", 1, "OrderCreated").await;
    let daemon = stage.relay_as_printed_role().await;
    until_parked(&stage, 1).await;
    stage.verdict().await.assert_delivered(2);
    let rows = parked_rows(&stage.client().await).await;
    assert!(rows[0].1 == "refused" && rows[0].2.contains("delivery.message_bytes_max"), "{rows:?}");
    assert_eq!(daemon.readyz().await.0, 200);
}

/// The exchange has another type, and each declaration is refused.
#[tokio::test]
async fn a_row_whose_exchange_cannot_be_declared_halts_and_does_not_flip() {
    let mut stage = Stage::shared("other_type").await;
    stage.source = FAST.to_owned();
    stage.consume().await;
    let (connection, channel) = consumer::connect(&stage.amqp_url).await.unwrap();
    let declare = lapin::options::ExchangeDeclareOptions { durable: true, ..Default::default() };
    let kind = lapin::ExchangeKind::Fanout;
    channel.exchange_declare("Other.events".into(), kind, declare, Default::default()).await.unwrap();
    let daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderCreated").await;
    let other = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Other', 'o', 't', '1') \
                 RETURNING id::text";
    let id: String = stage.client().await.query_one(other, &[]).await.unwrap().get(0);
    stage.write_row("b", 1, "OrderCreated").await;
    let reason = until_state(&daemon, "orders", "halted").await;
    println!("{reason}");
    assert!(reason.contains(&id) && reason.contains("'Other.events'"), "{reason}");
    for _ in 0..40 {
        let shown = source(&daemon, "orders").await;
        assert_eq!(shown["state"], "halted", "{shown}");
        assert_eq!(daemon.readyz().await.0, 503);
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(stage.oracle.received_count(), 1, "nothing goes out behind it");
    assert_eq!(daemon.reconnects("orders", "rabbitmq").await, 0);
    channel.exchange_delete("Other.events".into(), Default::default()).await.unwrap();
    // The exchange is declared now, and no queue is bound: the reason changes.
    until(&daemon, "orders", |shown| shown["reason"].to_string().contains("is unroutable")).await;
    stage.sql("SELECT 1").await;
    let bound = "Other.events";
    consumer::bind(&stage.amqp_url, bound, "other", "#").await;
    stage.verdict().await.assert_delivered(0);
    connection.close(200, "done".into()).await.unwrap();
}

/// Sets the size limit. RabbitMQ 3 reads it for each message, RabbitMQ 4 at its start.
async fn limit(broker: &RabbitMq, bytes: u32) {
    let set = "application:set_env(rabbit, max_message_size, N), persistent_term:put(max_message_size, N).";
    broker.eval(&set.replace('N', &bytes.to_string())).await;
}
