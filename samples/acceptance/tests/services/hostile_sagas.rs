//! Commands and replies that a stranger writes: each is ignored or becomes a dead letter, and the sagas of others go on.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::{
    broker::{header, large_headers, publish_as, take, waiting},
    eventually,
    faults::balanced,
    history_shows,
    hostile::unreadable,
    settled, shop_of,
};
use testkit::{RawPublisher, Shop, unique};

const COMMANDS: &str = "customer-service.commands";
const REPLIES: &str = "order-service.replies";
/// Order of the commands below. No order has it.
const ORDER: i64 = i64::MAX - 7;

async fn client(database: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Message of this type and these headers, with an id of its own.
fn message(kind: &str, headers: &[(&str, &str)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, text) in headers {
        table.insert((*name).into(), AMQPValue::LongString((*text).into()));
    }
    BasicProperties::default()
        .with_message_id(unique("hostile").as_str().into())
        .with_type(kind.into())
        .with_headers(table)
}

/// Returns the headers with one of them changed, or removed.
fn changed<'a>(headers: &[(&'a str, &'a str)], name: &str, text: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    headers
        .iter()
        .filter_map(|&(known, value)| match known == name {
            true => text.map(|text| (known, text)),
            false => Some((known, value)),
        })
        .collect()
}

/// Publishes into a queue, and waits until the message lies in its dead letters, for a reason that contains `why`.
async fn buried(shop: &Shop, queue: &str, properties: BasicProperties, body: &[u8], why: &str) {
    publish_as(&shop.amqp_url, queue, properties, body).await;
    let dead = format!("{queue}.dead");
    let letter = eventually(why, async || take(&shop.amqp_url, &dead).await).await;
    let reason = header(&letter, "dead-letter-reason").unwrap_or_default();
    assert!(reason.contains(why), "{why}: {reason}");
}

/// Publishes messages that no library writes into a queue. Each becomes a dead letter.
async fn unreadable_ones_are_buried(shop: &Shop, queue: &str) {
    let mut anybody = RawPublisher::connect(&shop.amqp_url).await;
    let dead = format!("{queue}.dead");
    for (properties, why) in unreadable() {
        anybody.publish("", queue.as_bytes(), &properties, &[b'x'; 300_000]).await;
        let letter = eventually(why, async || take(&shop.amqp_url, &dead).await).await;
        assert!(header(&letter, "dead-letter-reason").unwrap().contains(why), "{why}");
    }
}

/// Number of rows of a query's table.
async fn count(client: &Client, from: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {from}"), &[]).await.unwrap().get(0)
}

/// Checks that both sources of the relay stream, and that an order takes its way.
async fn flows(shop: &Shop, customer: i64) {
    let order = shop.order(customer, "1").await;
    assert_eq!(settled(shop, order).await.0, "APPROVED");
    history_shows(shop, customer, &[(order, "APPROVED")]).await;
    let status = shop.relay.status().await;
    for source in status["sources"].as_array().unwrap() {
        assert_eq!((&source["state"], &source["returned"]), (&json!("streaming"), &json!(0)), "{source}");
    }
    balanced(shop).await;
}

#[tokio::test]
async fn a_hostile_command_reserves_nothing_and_makes_the_service_publish_nowhere() {
    let shop = shop_of("orchestration", "hostile_commands").await;
    let customer = shop.customer("10").await;
    let database = client(&shop.databases[1]).await;
    let good = [
        ("command-type", "ReserveCredit"),
        ("saga-type", "CreateOrder"),
        ("saga-id", "7"),
        ("reply-to", REPLIES),
    ];
    let body = |order: &str| {
        format!(r#"{{"customerId": {customer}, "orderId": {order}, "orderTotal": {{"amount": 1}}}}"#)
    };
    let fits = body(&ORDER.to_string());
    unreadable_ones_are_buried(&shop, COMMANDS).await;
    for (name, _) in good {
        let properties = message("ReserveCredit", &changed(&good, name, None));
        buried(&shop, COMMANDS, properties, fits.as_bytes(), &format!("the header {name} is missing")).await;
    }
    // A reply's channel comes from the message, and would stop the relay where no queue is bound.
    let long = "x".repeat(300);
    let elsewhere = "does not reply to the channel";
    for (name, text, why) in [
        ("reply-to", "", elsewhere),
        ("reply-to", "amq.topic", elsewhere),
        ("reply-to", "Order.events", elsewhere),
        ("reply-to", "there.is.no.such.exchange", elsewhere),
        ("reply-to", COMMANDS, elsewhere),
        ("reply-to", "ORDER-SERVICE.REPLIES", elsewhere),
        ("reply-to", &long, "the header reply-to is missing, is no text, or is too long"),
        ("saga-id", "9223372036854775808", "cannot be '9223372036854775808'"),
        ("saga-id", "1.5", "cannot be '1.5'"),
        ("saga-id", "7; DROP TABLE saga", "cannot be '7; DROP TABLE saga'"),
        ("saga-type", &long, "the header saga-type is missing"),
        ("saga-type", "a\0b", "invalid byte sequence"),
        ("command-type", "ReleaseCredit", "command-type is not the type"),
    ] {
        let properties = message("ReserveCredit", &changed(&good, name, Some(text)));
        buried(&shop, COMMANDS, properties, fits.as_bytes(), why).await;
    }
    let mut no_text = FieldTable::default();
    for (name, _) in good {
        no_text.insert(name.into(), AMQPValue::LongLongInt(7));
    }
    let properties = message("ReserveCredit", &[]).with_headers(no_text);
    buried(&shop, COMMANDS, properties, fits.as_bytes(), "command-type is missing, is no text").await;
    let unknown =
        [("command-type", "ForgetDebts"), ("saga-type", "a"), ("saga-id", "7"), ("reply-to", REPLIES)];
    buried(&shop, COMMANDS, message("ForgetDebts", &unknown), fits.as_bytes(), "unknown event type").await;
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0];
    for poison in [
        b"".as_slice(),
        b"null",
        b"{",
        b"\xff\xfe",
        &gzip,
        br#"{"customerId": 1, "orderId": 2}"#,
        body("9223372036854775808").as_bytes(),
        body("1e30").as_bytes(),
        body("\"7\"").as_bytes(),
        fits.replace("\"amount\": 1", "\"amount\": 1e30").as_bytes(),
        fits.replace("\"amount\": 1", "\"amount\": 0").as_bytes(),
        "[".repeat(100_000).as_bytes(),
    ] {
        let compressed = message("ReserveCredit", &good).with_content_encoding("gzip".into());
        buried(&shop, COMMANDS, compressed, poison, "the body is not a valid ReserveCredit").await;
    }
    let answers = "outbox WHERE channel <> 'Customer.events'";
    assert_eq!((count(&database, "credit").await, count(&database, answers).await), (0, 0));

    // What can be understood is carried out, whatever its content type and however large its other headers.
    let mut headers = large_headers(60_000);
    for (name, text) in good {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    }
    let command = message("ReserveCredit", &good)
        .with_headers(headers)
        .with_content_type("image/png".into())
        .with_reply_to("amq.direct".into());
    for _ in 0..3 {
        publish_as(&shop.amqp_url, COMMANDS, command.clone(), fits.as_bytes()).await;
    }
    // The same command under another id has the same reply, and reserves no more.
    let again = command.with_message_id(unique("again").as_str().into());
    publish_as(&shop.amqp_url, COMMANDS, again, fits.as_bytes()).await;
    // There is no saga 7.
    let dead = format!("{REPLIES}.dead");
    eventually("both replies", async || (waiting(&shop.amqp_url, &dead).await == 2).then_some(())).await;
    assert_eq!((count(&database, "credit").await, count(&database, answers).await), (1, 2));
    let reserved: bool = database
        .query_one("SELECT reserved = 1 FROM customers WHERE id = $1", &[&customer])
        .await
        .unwrap()
        .get(0);
    assert!(reserved, "the credit is reserved once");
    let release = changed(&good, "command-type", Some("ReleaseCredit"));
    publish_as(&shop.amqp_url, COMMANDS, message("ReleaseCredit", &release), fits.as_bytes()).await;
    eventually("its reply", async || (waiting(&shop.amqp_url, &dead).await == 3).then_some(())).await;
    flows(&shop, customer).await;
}

#[tokio::test]
async fn a_hostile_reply_moves_no_saga_and_the_true_one_still_does() {
    let mut shop = shop_of("orchestration", "hostile_replies").await;
    let customer = shop.customer("10").await;
    // A saga that waits: nobody answers.
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
    let order = shop.order(customer, "4").await;
    let database = client(&shop.databases[0]).await;
    let select = "SELECT saga_id::text, message_id FROM saga_step WHERE message_id IS NOT NULL";
    let row = database.query_one(select, &[]).await.unwrap();
    let (saga, command): (String, String) = (row.get(0), row.get(1));
    let state = async || -> (String, i64, i64) {
        let select = "SELECT state, version, (SELECT count(*) FROM outbox) FROM saga";
        let row = database.query_one(select, &[]).await.unwrap();
        (row.get(0), row.get(1), row.get(2))
    };
    let before = state().await;
    let good = [
        ("reply-type", "CreditReserved"),
        ("saga-type", "CreateOrder"),
        ("saga-id", saga.as_str()),
        ("in-reply-to", command.as_str()),
        ("outcome", "SUCCESS"),
    ];
    unreadable_ones_are_buried(&shop, REPLIES).await;
    for name in ["reply-type", "saga-id", "in-reply-to", "outcome"] {
        let properties = message("CreditReserved", &changed(&good, name, None));
        buried(&shop, REPLIES, properties, b"{}", &format!("the header {name} is missing")).await;
    }
    let long = "x".repeat(300);
    for (name, text, why) in [
        ("outcome", "", "its header outcome says "),
        ("outcome", "success", "its header outcome says success"),
        ("outcome", "FAILURE", "its header outcome says FAILURE"),
        ("outcome", "SUCCESS OR NOT", "its header outcome says SUCCESS OR NOT"),
        ("outcome", &long, "the header outcome is missing, is no text, or is too long"),
        ("saga-id", "9223372036854775807", "there is no saga 9223372036854775807"),
        ("saga-id", "-9223372036854775808", "there is no saga -9223372036854775808"),
        ("saga-id", "9223372036854775808", "cannot be '9223372036854775808'"),
        ("saga-id", "", "cannot be ''"),
        ("in-reply-to", "", "has sent no command"),
        ("in-reply-to", "a\0b", "invalid byte sequence"),
        ("in-reply-to", "' OR true --", "has sent no command ' OR true --"),
        ("reply-type", "CreditReleased", "is no reply to what saga"),
        ("reply-type", "DebtsForgotten", "is no reply to what saga"),
        ("reply-type", "", "is no reply to what saga"),
    ] {
        let properties = message("CreditReserved", &changed(&good, name, Some(text)));
        buried(&shop, REPLIES, properties, b"{}", why).await;
    }
    let mut large = large_headers(60_000);
    large.insert("saga-id".into(), AMQPValue::LongString("7".into()));
    large.insert("in-reply-to".into(), AMQPValue::LongString("7".into()));
    large.insert("reply-type".into(), AMQPValue::LongString("CreditReserved".into()));
    let properties = message("CreditReserved", &[]).with_headers(large).with_content_type("text/html".into());
    buried(&shop, REPLIES, properties, &[0; 100_000], "there is no saga 7").await;
    assert_eq!(state().await, before, "no hostile reply moved the saga");

    shop.customers.start_again();
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
    // The true reply again, under other ids, with a poisonous body: the saga has ended.
    let ended = state().await;
    let handled = "inbox_messages_total{outcome=\"handled\",queue=\"order-service.replies\"}";
    let so_far = shop.orders.metric(handled).await.unwrap();
    for body in [b"".as_slice(), b"\xff", b"{}"] {
        publish_as(&shop.amqp_url, REPLIES, message("CreditReserved", &good), body).await;
    }
    eventually("they are ignored", async || {
        (shop.orders.metric(handled).await == Some(so_far + 3.0)).then_some(())
    })
    .await;
    assert_eq!(state().await, ended);
    let cancelled = shop.orders.post(&format!("/orders/{order}/cancel"), &Value::Null).await;
    assert_eq!(cancelled.0, 200, "{}", cancelled.1);
    let other = shop.customer("10").await;
    flows(&shop, other).await;
}
