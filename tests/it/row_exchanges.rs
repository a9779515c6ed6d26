//! Exchanges that rows name: a name that RabbitMQ cannot have, or refuses to this user, concerns that row only.

use std::time::Duration;

use hyper::Method;
use serde_json::json;

use crate::{
    parked::parked_rows,
    stage::{PATIENCE, Stage, eventually, say, source, until, until_alive, until_state},
};
use testkit::{Daemon, consumer, shared_rabbitmq};

const FAST: &str = "delivery.backoff_min_ms = 20\ndelivery.backoff_max_ms = 200\n";
const PARK: &str = "delivery.on_invalid = \"park\"\n";

/// Writes a row of this aggregate type; returns its id.
async fn write_of(stage: &Stage, aggregate_type: &str) -> String {
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ($1, 'hostile', 'Hostile', '1') \
                  RETURNING id::text";
    stage.client().await.query_one(insert, &[&aggregate_type]).await.unwrap().get(0)
}

/// Names of the virtual host's exchanges, without RabbitMQ's own.
async fn exchanges(stage: &Stage) -> Vec<String> {
    let path = format!("/api/exchanges/{}", stage.name);
    let listed = shared_rabbitmq().await.api(Method::GET, &path, json!(null)).await;
    let names =
        listed.as_array().unwrap().iter().map(|exchange| exchange["name"].as_str().unwrap().to_owned());
    names.filter(|name| !name.is_empty() && !name.starts_with("amq.")).collect()
}

/// Checks that with `halt` the source stays halted at a row of this aggregate type, and that with `park` the row is parked and
/// the others arrive.
async fn is_refused_by_both_policies(mut stage: Stage, aggregate_type: &str, cause: &str, named: &[&str]) {
    stage.source = FAST.to_owned();
    stage.consume().await;
    let mut daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    // Backlog rows would have other positions after the restart.
    until_state(&daemon, "orders", "streaming").await;
    stage.write_row("a", 1, "OrderCreated").await;
    let id = write_of(&stage, aggregate_type).await;
    stage.write_row("b", 1, "OrderCreated").await;
    let reason = until_state(&daemon, "orders", "halted").await;
    println!("{reason}");
    for named in named.iter().chain(&[&*id, " at 00000000", "on_invalid"]) {
        assert!(reason.contains(named), "{named}: {reason}");
    }
    eventually("the row before the refused one arrives", async || stage.oracle.received_count() >= 1).await;
    for _ in 0..40 {
        let shown = source(&daemon, "orders").await;
        assert_eq!((&shown["state"], daemon.readyz().await.0), (&json!("halted"), 503), "{shown}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(stage.oracle.received_count(), 1, "a row behind the refused one was published");
    assert_eq!(daemon.reconnects("orders", "rabbitmq").await, 0);
    daemon.sigterm(PATIENCE).await;
    drop(daemon);

    stage.source = format!("{FAST}{PARK}");
    let mut daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    stage.verdict().await.assert_delivered(2);
    let rows = parked_rows(&stage.client().await).await;
    let [(Some(parked), parked_for, reason)] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((parked, parked_for.as_str()), (&id, cause));
    assert!(named.iter().all(|named| reason.contains(named)), "{reason}");
    daemon.wait_ready(PATIENCE).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn a_name_with_a_line_break_makes_the_row_invalid() {
    for (test, aggregate_type) in [("line_feed", "Bro\nken"), ("carriage_return", "Broken\r")] {
        let stage = Stage::shared(test).await;
        is_refused_by_both_policies(stage, aggregate_type, "invalid", &["line break", "message.exchange"])
            .await;
    }
}

#[tokio::test]
async fn a_name_that_rabbitmq_keeps_for_itself_refuses_the_row() {
    let stage = Stage::shared("reserved").await;
    is_refused_by_both_policies(
        stage,
        "amq.own",
        "refused",
        &["'amq.own.events'", "does not begin with amq."],
    )
    .await;
}

/// A user who may declare only one exchange and the fence.
async fn limited(test: &str) -> Stage {
    let mut stage = Stage::shared(test).await;
    let broker = shared_rabbitmq().await;
    broker.create_user(&stage.name, "pw").await;
    let configure = r"^(Order\.events|outboxd\.publisher\..*)$";
    broker.allow(&stage.name, &stage.name, [configure, ".*", ".*"]).await;
    stage.rabbitmq = format!("username = \"{}\"\npassword = \"pw\"\n", stage.name);
    stage
}

#[tokio::test]
async fn an_exchange_that_the_user_may_not_declare_refuses_the_row_until_it_may() {
    let named = ["'Other.events'", "ACCESS_REFUSED", "set_permissions"];
    is_refused_by_both_policies(limited("may_not").await, "Other", "refused", &named).await;

    let mut stage = limited("may_now").await;
    stage.source = FAST.to_owned();
    let _id = write_of(&stage, "Other").await;
    let daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    until_state(&daemon, "orders", "halted").await;
    shared_rabbitmq().await.allow(&stage.name, &stage.name, [".*"; 3]).await;
    until(&daemon, "orders", |shown| shown["reason"].to_string().contains("is unroutable")).await;
    consumer::bind(&stage.amqp_url, "Other.events", "other", "#").await;
    until_state(&daemon, "orders", "streaming").await;
    assert_eq!(stage.messages_in("other").await, 1);
    assert_eq!(daemon.reconnects("orders", "rabbitmq").await, 0);
}

/// Declares a transient exchange, unlike outboxd would.
async fn declare_transient(stage: &Stage, exchange: &str) -> lapin::Connection {
    let (connection, channel) = consumer::connect(&stage.amqp_url).await.unwrap();
    let declare = lapin::options::ExchangeDeclareOptions { durable: false, ..Default::default() };
    let kind = lapin::ExchangeKind::Topic;
    channel.exchange_declare(exchange.into(), kind, declare, Default::default()).await.unwrap();
    connection
}

/// RabbitMQ 3.10 cuts such a text within a character; later versions write it as Latin-1.
#[tokio::test]
async fn a_refusal_that_quotes_a_long_name_beyond_ascii_is_the_rows_own() {
    let name = "ä".repeat(120);
    let exchange = format!("'{name}.events'");
    let stage = limited("umlauts_denied").await;
    is_refused_by_both_policies(stage, &name, "refused", &[&exchange, "ACCESS_REFUSED"]).await;
    let mut stage = Stage::shared("umlauts_missing").await;
    stage.rabbitmq = "declare = false\n".to_owned();
    is_refused_by_both_policies(stage, &name, "refused", &[&exchange, "NOT_FOUND"]).await;
    let stage = Stage::shared("umlauts_otherwise").await;
    let connection = declare_transient(&stage, &format!("{name}.events")).await;
    is_refused_by_both_policies(stage, &name, "refused", &[&exchange, "inequivalent arg 'durable'"]).await;
    connection.close(200, "done".into()).await.unwrap();
}

#[tokio::test]
async fn an_exchange_that_is_there_with_other_properties_refuses_the_row() {
    let stage = Stage::shared("otherwise").await;
    let connection = declare_transient(&stage, "Other.events").await;
    is_refused_by_both_policies(stage, "Other", "refused", &["'Other.events'", "inequivalent arg 'durable'"])
        .await;
    connection.close(200, "done".into()).await.unwrap();
}

#[tokio::test]
async fn an_exchange_without_a_name_is_refused_unless_the_template_means_it() {
    let mut stage = Stage::shared("nameless").await;
    stage.source = format!("{FAST}{PARK}message.exchange = \"{{column:type}}\"\n");
    let insert =
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', '', '1')";
    stage.sql(insert).await;
    let daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    let rows = parked_rows(&stage.client().await).await;
    assert!(rows[0].1 == "invalid" && rows[0].2.contains("default exchange"), "{rows:?}");
    drop(daemon);

    // The default exchange reaches a queue of that name.
    let mut stage = Stage::shared("default_exchange").await;
    stage.consume().await;
    stage.source = format!("{FAST}message.exchange = \"\"\nmessage.routing_key = \"{}\"\n", stage.name);
    let daemon = Daemon::start(&stage.config());
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(1);
    drop(daemon);
}

#[tokio::test]
async fn rows_make_as_many_exchanges_as_the_limit_says_and_the_next_one_names_it() {
    let mut stage = Stage::shared("exchanges_max").await;
    stage.source = format!("{FAST}{PARK}delivery.on_unroutable = \"park\"\n");
    let rows = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) SELECT 'T' || n, 'a', 't', '1' \
                FROM generate_series(1, 1000) n ORDER BY n";
    stage.sql(rows).await;
    let mut daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1000).await;
    assert_eq!(exchanges(&stage).await.len(), 256, "the default of delivery.exchanges_max");
    let parked = parked_rows(&stage.client().await).await;
    let refused: Vec<_> = parked.iter().filter(|(_, cause, _)| cause == "refused").collect();
    assert_eq!(refused.len(), 1000 - 256);
    assert!(
        refused.iter().all(|(_, _, reason)| reason.contains("delivery.exchanges_max is 256")),
        "{:?}",
        refused[0]
    );
    assert_eq!(daemon.reconnects("orders", "rabbitmq").await, 0);
    daemon.wait_ready(PATIENCE).await;
    println!("{} MB", daemon.memory_peak_mb());
    let checked = say(&daemon, &["check"]).await.stdout;
    assert!(checked.contains("`run` declares at most 256 exchanges *.events that rows name"), "{checked}");
    drop(daemon);

    // Configured exchanges do not count. With 0, rows reach no others.
    let mut stage = Stage::shared("exchanges_none").await;
    let described = "[[exchanges]]\nname = \"Order.events\"\n";
    stage.source = format!("{FAST}delivery.exchanges_max = 0\n{described}");
    stage.consume().await;
    stage.write_row("a", 1, "OrderCreated").await;
    let id = write_of(&stage, "Other").await;
    let mut daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    let reason = until_state(&daemon, "orders", "halted").await;
    println!("{reason}");
    for named in [&*id, "'Other.events'", "delivery.exchanges_max is 0", "[[exchanges]]", "on_invalid"] {
        assert!(reason.contains(named), "{named}: {reason}");
    }
    assert_eq!(exchanges(&stage).await, ["Order.events"]);
    daemon.sigterm(PATIENCE).await;
    drop(daemon);
    stage.source = format!("{FAST}delivery.exchanges_max = 1\n{described}");
    let daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    until(&daemon, "orders", |shown| shown["reason"].to_string().contains("is unroutable")).await;
}

/// No row decides the name.
#[tokio::test]
async fn the_exchange_that_the_template_names_literally_counts_as_configured() {
    let mut stage = Stage::shared("exchange_literal").await;
    stage.source = format!("{FAST}delivery.exchanges_max = 0\nmessage.exchange = \"Order.events\"\n");
    let daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    stage.write_row("a", 1, "OrderCreated").await;
    until(&daemon, "orders", |shown| shown["reason"].to_string().contains("is unroutable")).await;
    stage.consume().await;
    stage.verdict().await.assert_delivered(1);
}

#[tokio::test]
async fn exchanges_that_are_there_before_outboxd_do_not_count() {
    let mut stage = Stage::shared("exchanges_there").await;
    stage.source = format!("{FAST}{PARK}delivery.exchanges_max = 1\n");
    for old in ["Old1", "Old2", "Old3"] {
        consumer::bind(&stage.amqp_url, &format!("{old}.events"), "old", "#").await;
        let _id = write_of(&stage, old).await;
    }
    let daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    eventually("all arrive", async || stage.messages_in("old").await == 3).await;
    let _id = write_of(&stage, "New1").await;
    until(&daemon, "orders", |shown| shown["reason"].to_string().contains("is unroutable")).await;
    consumer::bind(&stage.amqp_url, "New1.events", "new", "#").await;
    until_state(&daemon, "orders", "streaming").await;
    let id = write_of(&stage, "New2").await;
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    let rows = parked_rows(&stage.client().await).await;
    assert!(rows[0].0.as_ref() == Some(&id) && rows[0].2.contains("delivery.exchanges_max is 1"), "{rows:?}");
    // The broker's answer about an exchange that was declared meanwhile.
    consumer::bind(&stage.amqp_url, "New3.events", "new", "#").await;
    let _id = write_of(&stage, "New3").await;
    eventually("it arrives", async || stage.messages_in("new").await == 2).await;
    assert_eq!(daemon.reconnects("orders", "rabbitmq").await, 0);
}
