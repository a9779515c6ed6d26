//! The documents are true: RabbitMQ's firehose shows every message of a run, and each is one that its service describes.

use std::{collections::BTreeSet, sync::Mutex};

use hyper::Method;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value, json};

use super::{SERVICES, operations, schema::problems};
use crate::{broker, eventually, settled, shop_of};
use testkit::{Shop, consumer::connect, shared_rabbitmq};

const TAP: &str = "firehose";

/// Message as the firehose shows it.
#[derive(Debug)]
struct Published {
    exchange: String,
    routing_key: String,
    name: String,
    headers: Map<String, Value>,
    body: Value,
}

/// Copies every message that is published from now on into a queue.
async fn tap(shop: &Shop) {
    let vhost = shop.amqp_url.rsplit('/').next().unwrap();
    let path = format!("/api/vhosts/{vhost}");
    shared_rabbitmq().await.api(Method::PUT, &path, json!({ "tracing": true })).await;
    let (_connection, channel) = connect(&shop.amqp_url).await.unwrap();
    broker::declare(&shop.amqp_url, TAP, &[]).await;
    let (none, options) = (FieldTable::default(), lapin::options::QueueBindOptions::default());
    channel
        .queue_bind(TAP.into(), "amq.rabbitmq.trace".into(), "publish.#".into(), options, none)
        .await
        .unwrap();
}

/// Takes the messages that the tap has.
async fn tapped(shop: &Shop) -> Vec<Published> {
    let mut all = Vec::new();
    while let Some(message) = broker::take(&shop.amqp_url, TAP).await {
        let headers = message.delivery.properties.headers().clone().unwrap_or_default();
        let told = json_of(&AMQPValue::FieldTable(headers));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.push(Published {
            exchange: text(&told["exchange_name"]),
            routing_key: text(&told["routing_keys"][0]),
            name: text(&told["properties"]["type"]),
            headers: told["properties"]["headers"].as_object().cloned().unwrap_or_default(),
            body: serde_json::from_slice(&message.delivery.data).unwrap_or_default(),
        });
    }
    all
}

fn json_of(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::FieldTable(table) => {
            table.inner().iter().map(|(name, value)| (name.to_string(), json_of(value))).collect()
        }
        AMQPValue::FieldArray(array) => array.as_slice().iter().map(json_of).collect(),
        AMQPValue::LongString(text) => json!(text.to_string()),
        AMQPValue::ShortString(text) => json!(text.to_string()),
        AMQPValue::Boolean(flag) => json!(flag),
        AMQPValue::LongLongInt(number) => json!(number),
        AMQPValue::LongInt(number) => json!(number),
        other => json!(format!("{other:?}")),
    }
}

/// Places, rejects and cancels orders, so that each message is sent.
async fn everything_happens(shop: &Shop) {
    let customer = shop.customer("20").await;
    let order = shop.order(customer, "12.07").await;
    assert_eq!(settled(shop, order).await.0, "APPROVED");
    for (of, reason) in [(customer, "INSUFFICIENT_CREDIT"), (i64::MAX, "UNKNOWN_CUSTOMER")] {
        let refused = shop.order(of, "10").await;
        assert_eq!(settled(shop, refused).await, ("REJECTED".to_owned(), json!(reason)));
    }
    assert_eq!(shop.orders.post(&format!("/orders/{order}/cancel"), &Value::Null).await.0, 200);
    // The credit is free again when the cancellation has reached the customer service, and its reply the saga.
    let whole = eventually("the whole credit is free", async || {
        let whole = shop.order(customer, "20").await;
        (settled(shop, whole).await.0 == "APPROVED").then_some(whole)
    })
    .await;
    eventually("the history shows the ends", async || {
        let (_, history) = shop.history.get(&format!("/customers/{customer}/orderhistory")).await;
        let state_of = |order: i64| {
            history["orders"].as_array()?.iter().find(|known| known["orderId"] == order)?["state"].as_str()
        };
        (state_of(order) == Some("CANCELLED") && state_of(whole) == Some("APPROVED")).then_some(())
    })
    .await;
}

async fn documents(shop: &Shop) -> [Value; 3] {
    let services = [&shop.orders, &shop.customers, &shop.history];
    let mut documents = Vec::new();
    for (service, name) in services.into_iter().zip(SERVICES) {
        let (status, document) = service.get("/asyncapi.json").await;
        assert_eq!((status, &document["info"]["title"]), (200, &json!(name)));
        documents.push(document);
    }
    documents.try_into().unwrap()
}

/// Checks a message against the document of the service that sent it; gives the service and the message's name.
fn checked(documents: &[Value; 3], message: &Published) -> (usize, String) {
    let sender = match message.headers.get("outbox-source").and_then(Value::as_str) {
        Some("orders") => 0,
        Some("customers") => 1,
        _ => panic!("nobody sends {message:?}"),
    };
    let document = &documents[sender];
    let described = operations(document).into_iter().find_map(|operation| {
        let is_it = |channel: &Value, described: &Value| {
            channel["address"] == message.exchange && described["name"] == message.name
        };
        if operation.sends() {
            return is_it(operation.channel, operation.message).then_some(operation.message);
        }
        let replies = super::target(document, operation.object["reply"].get("channel")?);
        operation.replies.iter().find(|reply| is_it(replies, reply)).copied()
    });
    let described = described.unwrap_or_else(|| panic!("{} does not describe {message:?}", SERVICES[sender]));
    let headers = Value::from(message.headers.clone());
    for (part, instance) in [("headers", &headers), ("payload", &message.body)] {
        let problems = problems(document, &described[part], instance);
        assert!(problems.is_empty(), "{part} of {message:?}: {problems:?}");
    }
    assert_eq!(message.routing_key, message.name, "{message:?}");
    (sender, message.name.clone())
}

/// Returns every message that the services say they send.
fn promised(documents: &[Value; 3]) -> BTreeSet<(usize, String)> {
    let sent = |(sender, document)| {
        operations(document).into_iter().flat_map(move |operation| {
            let own = operation.sends().then(|| operation.name().to_owned());
            let replies = operation.replies.iter().filter(|_| !operation.sends());
            let replies: Vec<String> =
                replies.map(|reply| reply["name"].as_str().unwrap().to_owned()).collect();
            own.into_iter().chain(replies).map(move |name| (sender, name))
        })
    };
    documents.iter().enumerate().flat_map(sent).collect()
}

/// Checks that the queues are bound as the services say that they receive.
async fn bound(shop: &Shop, documents: &[Value; 3]) {
    let vhost = shop.amqp_url.rsplit('/').next().unwrap();
    let bindings =
        shared_rabbitmq().await.api(Method::GET, &format!("/api/bindings/{vhost}"), Value::Null).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let really: BTreeSet<[String; 3]> = bindings
        .as_array()
        .unwrap()
        .iter()
        .map(|binding| ["source", "destination", "routing_key"].map(|part| text(&binding[part])))
        .filter(|[exchange, ..]| !exchange.is_empty() && !exchange.starts_with("amq."))
        .collect();
    let described = documents.iter().flat_map(operations).filter(|operation| !operation.sends());
    let described: BTreeSet<[String; 3]> = described
        .map(|receiver| {
            let exchange = text(&receiver.channel["address"]);
            [exchange, text(&receiver.object["x-queue"]), receiver.name().to_owned()]
        })
        .collect();
    assert_eq!(really, described);
}

#[tokio::test]
async fn every_message_of_a_run_is_described_by_its_sender_and_every_described_one_comes() {
    let mut seen = BTreeSet::new();
    let mut expected = BTreeSet::new();
    for style in ["choreography", "orchestration"] {
        let shop = shop_of(style, "described").await;
        tap(&shop).await;
        everything_happens(&shop).await;
        let documents = documents(&shop).await;
        expected = promised(&documents);
        // The last reply may come after all that it tells of.
        let last = if style == "orchestration" { "CreditReleased" } else { "OrderCancelled" };
        let messages = Mutex::new(Vec::new());
        eventually(last, async || {
            let more = tapped(&shop).await;
            let mut messages = messages.lock().unwrap();
            messages.extend(more);
            messages.iter().any(|message| message.name == last).then_some(())
        })
        .await;
        seen.extend(messages.into_inner().unwrap().iter().map(|message| checked(&documents, message)));
        bound(&shop, &documents).await;
    }
    assert_eq!(seen, expected);
}
