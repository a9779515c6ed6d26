//! Messages that the broker refuses, and rows that cannot become messages.

use std::time::Duration;

use hyper::Method;
use serde_json::json;

use crate::stage::{PATIENCE, Stage, alive, eventually, source, until};
use testkit::shared_rabbitmq;

#[tokio::test]
async fn nacked_messages_are_sent_again_in_the_order_of_their_aggregates() {
    let mut stage = Stage::shared("nack").await;
    stage.workload.transactions = 150;
    stage.workload.writers = 1;
    stage.source = "delivery.backoff_min_ms = 10\ndelivery.backoff_max_ms = 100".to_owned();
    stage.bind("#").await;
    let full = json!({
        "pattern": ".*", "apply-to": "queues",
        "definition": { "max-length": 20, "overflow": "reject-publish" },
    });
    let path = format!("/api/policies/{}/full", stage.name);
    shared_rabbitmq().await.api(Method::PUT, &path, full).await;
    let daemon = stage.relay_as_printed_role().await;
    stage.write().await;
    eventually("a full queue refuses", async || daemon.count("orders", "messages_nacked_total").await > 50)
        .await;
    // A queue that has been full for five seconds is reported, possibly already on a busy machine. Nothing else may be wrong.
    let (status, text) = daemon.readyz().await;
    assert!(
        status == 200 || text.contains("a queue bound for them does not take them"),
        "a nack is no reason to stop: {text}"
    );

    stage.consume().await;
    stage.verdict().await.of_each_aggregate().assert_delivered(0);
    let published = daemon.count("orders", "messages_published_total").await;
    let nacked = daemon.count("orders", "messages_nacked_total").await;
    assert_eq!(
        published,
        stage.oracle.committed_count() + nacked,
        "each nack is one more try, and nothing else is"
    );
    assert_eq!(daemon.reconnects("orders", "rabbitmq").await, 0);
}

#[tokio::test]
async fn an_unroutable_message_holds_everything_until_a_queue_is_bound() {
    let mut stage = Stage::shared("unroutable").await;
    stage.source = "delivery.backoff_min_ms = 20\ndelivery.backoff_max_ms = 100".to_owned();
    stage.consume_only("OrderChanged").await;
    let daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);

    stage.write_row("b", 1, "OrderCreated").await;
    let halted = until(&daemon, "orders", |shown| shown["state"] == "halted").await;
    let id: String = {
        let client = stage.client().await;
        let sql = "SELECT id::text FROM outbox WHERE type = 'OrderCreated'";
        client.query_one(sql, &[]).await.unwrap().get(0)
    };
    let (status, text) = daemon.readyz().await;
    assert_eq!(status, 503, "{text}");
    for named in [&id, "'Order.events'", "'OrderCreated'"] {
        assert!(halted["reason"].as_str().unwrap().contains(named), "{named}: {halted}");
        assert!(text.contains(named), "{named}: {text}");
    }

    // Their queue is bound, but the earlier message of their aggregate is unroutable.
    for sequence in 1..=20 {
        stage.write_row("c", sequence, "OrderChanged").await;
        stage.write_row("b", sequence + 1, "OrderChanged").await;
    }
    let returned = daemon.count("orders", "messages_returned_total").await;
    eventually("it is tried again", async || {
        daemon.count("orders", "messages_returned_total").await >= returned + 5
    })
    .await;
    assert_eq!(stage.oracle.received_count(), 1, "something overtook the unroutable message");
    assert_eq!(daemon.count("orders", "messages_confirmed_total").await, 1);
    assert_eq!(source(&daemon, "orders").await["state"], "halted");

    stage.bind("OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    until(&daemon, "orders", |shown| shown["state"] == "streaming").await;
    assert_eq!(daemon.readyz().await.0, 200);
    let published = daemon.count("orders", "messages_published_total").await;
    let returned = daemon.count("orders", "messages_returned_total").await;
    assert_eq!(published, stage.oracle.committed_count() + returned);
    for side in ["postgres", "rabbitmq"] {
        assert_eq!(daemon.reconnects("orders", side).await, 0, "{side}");
    }
}

/// Messages behind an unroutable one are confirmed by RabbitMQ, but not acknowledged to PostgreSQL: the unroutable one holds the
/// position back.
#[tokio::test]
async fn a_drain_says_that_what_is_confirmed_behind_an_unroutable_message_will_come_again() {
    let mut stage = Stage::shared("behind").await;
    stage.consume_only("OrderChanged").await;
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());

    stage.write_row("b", 1, "OrderCreated").await;
    for number in 0..300 {
        stage.write_row(&format!("c{number}"), 1, "OrderChanged").await;
    }
    let mut daemon = alive(&stage.run_printed_sql().await).await;
    until(&daemon, "orders", |shown| shown["state"] == "halted" && shown["in_flight"] == 1).await;
    let confirmed = daemon.count("orders", "messages_confirmed_total").await;
    assert!(confirmed > 0, "one unroutable message held back all 300 of other aggregates");
    assert_eq!(daemon.sigterm(PATIENCE).await.code(), Some(1));
    assert!(daemon.log().contains("confirmed behind one that is unroutable"), "{}", daemon.log());

    stage.bind("OrderCreated").await;
    let mut daemon = stage.relay_as_printed_role().await;
    let verdict = stage.verdict().await;
    verdict.assert_delivered(confirmed);
    assert_eq!(verdict.duplicates, confirmed);
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn an_unroutable_message_is_dropped_and_counted_where_that_is_wanted() {
    let mut stage = Stage::shared("drop").await;
    stage.source = "delivery.on_unroutable = \"drop\"".to_owned();
    stage.consume_only("OrderChanged").await;
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderChanged").await;
    stage.write_unseen("a", "OrderCreated").await;
    stage.write_row("a", 2, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
    assert_eq!(daemon.count("orders", "messages_returned_total").await, 1);
    assert_eq!(daemon.count("orders", "messages_published_total").await, 3);
    assert_eq!(daemon.readyz().await.0, 200);
    assert!(daemon.log().contains("dropped an unroutable message"));
    assert!(!daemon.log().contains("hidden"));

    stage.is_settled_for_good(&mut daemon).await;
}

/// A content header cannot be split over frames, and the connection's frames are small.
#[tokio::test]
async fn a_message_that_amqp_cannot_carry_halts_behind_an_unroutable_one_that_still_goes_out() {
    let mut stage = Stage::shared("unsendable").await;
    stage.source = "delivery.backoff_min_ms = 20\ndelivery.backoff_max_ms = 100".to_owned();
    stage.amqp_url += "?frame_max=8192";
    stage.consume_only("OrderChanged").await;
    stage.write_row("a", 1, "OrderCreated").await;
    let unsendable = "INSERT INTO outbox (aggregatetype, aggregateid, type, headers)
                      VALUES ('Order', 'u', 'OrderChanged', jsonb_build_object('h', repeat('x', 10000)))";
    stage.sql(unsendable).await;
    stage.write_unseen("b", "OrderChanged").await;
    let daemon = alive(&stage.run_printed_sql().await).await;
    until(&daemon, "orders", |shown| shown["reason"].to_string().contains("no queue is bound")).await;
    stage.bind("OrderCreated").await;
    let halted =
        until(&daemon, "orders", |shown| shown["reason"].to_string().contains("frame_max is 8192")).await;
    assert_eq!(halted["state"], "halted");
    stage.verdict().await.assert_delivered(0);
    assert_eq!(daemon.count("orders", "messages_confirmed_total").await, 1, "and nothing behind it");
}

#[tokio::test]
async fn an_invalid_row_halts_its_source_after_what_came_before_it_and_no_other_source() {
    let long = "x".repeat(300);
    for (what, columns, values) in [
        ("the exchange", "aggregatetype", format!("'{long}'")),
        ("headers", "aggregatetype, headers", "'Order', '[\"no object\"]'".to_owned()),
    ] {
        let mut stage = Stage::shared("invalid").await;
        stage.workload.transactions = 50;
        stage.consume().await;
        let mut other = Stage::shared("other").await;
        other.workload.aggregate_type = "Invoice".to_owned();
        other.workload.transactions = 50;
        other.amqp_url.clone_from(&stage.amqp_url);
        other.consume().await;
        // The publication has the name that the script gives to a separate source.
        other.source = "postgres.publication = \"outboxd_orders\"".to_owned();
        let invoices = other.run_printed_sql().await;
        let (_, invoices) = invoices.split_once("[sources.orders]").unwrap();
        let config = format!("{}[sources.invoices]{invoices}", stage.run_printed_sql().await);
        let mut daemon = alive(&config).await;
        daemon.wait_ready(PATIENCE).await;
        stage.write().await;
        let client = stage.client().await;
        // The earlier row of the same transaction is published, too.
        let insert = format!(
            "INSERT INTO outbox (aggregateid, type, payload, {columns}) \
             VALUES ('bad', 'OrderCreated', '{{\"secret\": \"hidden\"}}', {values}) RETURNING id::text"
        );
        let id: String = client.query_one(&insert, &[]).await.unwrap().get(0);

        let halted = until(&daemon, "orders", |shown| shown["state"] == "halted").await;
        let reason = halted["reason"].as_str().unwrap();
        println!("{reason}");
        assert!(reason.contains(&id) && reason.contains(what), "{what}: {reason}");
        let before = halted["position"].as_str().unwrap();
        let position = reason
            .split(|c: char| !(c.is_ascii_hexdigit() || c == '-'))
            .find(|word| word.len() == before.len() && word.as_bytes()[16] == b'-');
        assert!(position.is_some_and(|position| position > before), "no position after {before}: {reason}");
        let (status, text) = daemon.readyz().await;
        assert!(status == 503 && text.contains(&id), "{status} {text}");
        stage.verdict().await.assert_delivered(0);
        let confirmed = daemon.count("orders", "messages_confirmed_total").await;
        assert_eq!(confirmed, stage.oracle.committed_count());

        other.write().await;
        other.verdict().await.assert_delivered(0);
        assert_eq!(source(&daemon, "invoices").await["state"], "streaming");
        assert!(!daemon.log().contains("hidden"), "a payload in the log:\n{}", daemon.log());
        assert!(daemon.sigterm(Duration::from_secs(20)).await.success());
    }
}
