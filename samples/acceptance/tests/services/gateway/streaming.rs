//! Events for browsers.

use std::time::Duration;

use super::{events_until, listen};
use crate::{
    PATIENCE,
    broker::{ByHand, publish},
    eventually, settled, shared_shop, shop,
};
use hyper::Method;
use testkit::{EventStream, RabbitMq, RabbitMqOptions, Shop, StreamedEvent, http, shared_postgres};

#[tokio::test]
async fn a_browser_sees_an_orders_way_as_it_happens() {
    let shop = shared_shop().await;
    // Two instances: each hears everything.
    let (gateway, other) = (shop.gateway().await, shop.gateway().await);
    let (mut browser, mut elsewhere) = (listen(&gateway).await, listen(&other).await);
    let mut second = listen(&gateway).await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "10").await;
    let way = ["OrderCreated", "CustomerCreditReserved", "OrderApproved"];
    for stream in [&mut browser, &mut second, &mut elsewhere] {
        assert_eq!(events_until(stream, order, "OrderApproved").await, way);
    }
    assert_eq!(gateway.metric("event_streams").await, Some(2.0));
    drop(second);
    eventually("the browser that left is not counted", async || {
        gateway.metric("event_streams").await.filter(|streams| *streams == 1.0)
    })
    .await;
    let refused = shop.order(customer, "0.01").await;
    let way = events_until(&mut browser, refused, "OrderRejected").await;
    assert_eq!(way, ["OrderCreated", "CustomerCreditReservationFailed", "OrderRejected"]);
    let (_, answer) = gateway.post(&format!("/api/orders/{order}/cancel"), &serde_json::json!({})).await;
    assert_eq!(answer["orderState"], "CANCELLED");
    let cancelled = next_of(&mut browser, order).await;
    assert_eq!(cancelled.event, "OrderCancelled");
    assert_eq!(cancelled.data["type"], "OrderCancelled");
    assert_eq!(cancelled.id.as_deref(), cancelled.data["id"].as_str());
    assert_eq!(cancelled.data["customerId"], customer);
    assert_eq!(cancelled.data["payload"]["orderDetails"]["orderTotal"]["amount"], 10);
    assert_eq!(cancelled.data["position"].as_str().unwrap().len(), 25);
    let age = now_ms() - cancelled.data["occurredAt"].as_i64().unwrap();
    assert!((0..120_000).contains(&age), "{age} ms");
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// Returns the next event of an order.
async fn next_of(stream: &mut EventStream, order: i64) -> StreamedEvent {
    loop {
        let event = stream.next_within(PATIENCE).await.expect("the stream goes on");
        if event.data["orderId"] == order {
            return event;
        }
    }
}

#[tokio::test]
async fn a_stream_survives_a_restart_of_the_broker_and_says_that_events_may_be_missing() {
    let rabbitmq = RabbitMq::start(RabbitMqOptions::default()).await;
    let shop = Shop::open("streamed", shared_postgres().await, &rabbitmq).await;
    let gateway = shop.gateway().await;
    let mut browser = listen(&gateway).await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "1").await;
    events_until(&mut browser, order, "OrderApproved").await;

    rabbitmq.restart().await;
    loop {
        let event = browser.next_within(PATIENCE).await.expect("the stream goes on");
        if event.event == "lagged" {
            assert_eq!(event.data, serde_json::json!({"missed": null}));
            break;
        }
    }
    let order = shop.order(customer, "1").await;
    let way = events_until(&mut browser, order, "OrderApproved").await;
    assert_eq!(way, ["OrderCreated", "CustomerCreditReserved", "OrderApproved"]);
    assert_eq!(gateway.metric("events_connected").await, Some(1.0));
}

#[tokio::test]
async fn the_queue_ends_with_the_gateway() {
    let rabbitmq = testkit::shared_rabbitmq().await;
    let shop = shop("queue").await;
    let mut gateway = shop.gateway().await;
    let _browser = listen(&gateway).await;
    let vhost = vhost(&shop);
    let queues = async || {
        let text =
            rabbitmq.ctl(&["-p", &vhost, "--quiet", "list_queues", "name", "exclusive", "auto_delete"]).await;
        let own = text.lines().filter(|line| line.starts_with("api-gateway.events."));
        own.map(str::to_owned).collect::<Vec<_>>()
    };
    let there = queues().await;
    assert_eq!(there.len(), 1, "{there:?}");
    assert!(there[0].ends_with("true\ttrue"), "{there:?}");
    assert!(gateway.sigterm(PATIENCE).await.success());
    assert_eq!(queues().await, Vec::<String>::new());
    // Also when the process is killed.
    gateway.start_again();
    gateway.wait_ready(PATIENCE).await;
    listen(&gateway).await;
    assert_eq!(queues().await.len(), 1);
    gateway.kill9().await;
    eventually("the queue is gone", async || queues().await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn open_streams_do_not_keep_a_gateway_from_its_end() {
    let shop = shared_shop().await;
    let mut gateway = shop.gateway().await;
    let mut browsers = vec![listen(&gateway).await, listen(&gateway).await];
    // A browser that never reads.
    browsers.push(EventStream::open(gateway.port(), "/api/events", &[]).await);
    let asked = std::time::Instant::now();
    assert!(gateway.sigterm(Duration::from_secs(15)).await.success());
    println!("ended after {:?}", asked.elapsed());
    for mut browser in browsers {
        while let Some(event) = browser.next_within(PATIENCE).await {
            assert_ne!(event.event, "OrderApproved of nobody");
        }
    }
    assert!(gateway.log().contains("drained"), "{}", gateway.log());
}

#[tokio::test]
async fn a_browser_that_reads_too_slowly_learns_how_much_it_missed() {
    let shop = shop("slow").await;
    let mut gateway = shop.prepare_gateway().with("EVENTS_BUFFER", "4");
    gateway.start_again();
    gateway.wait_ready(PATIENCE).await;
    let mut slow = listen(&gateway).await;
    let mut quick = listen(&gateway).await;
    // Large events fill the sockets of the one that does not read.
    let body = format!(r#"{{"orderId": 7, "customerId": 1, "padding": "{}"}}"#, "x".repeat(60_000));
    let count = 400;
    let reading = tokio::spawn(async move {
        let mut seen = 0;
        while seen < count {
            let event = quick.next_within(PATIENCE).await.expect("the stream goes on");
            seen += match event.event.as_str() {
                "lagged" => event.data["missed"].as_u64().unwrap_or(0),
                _ => 1,
            };
        }
    });
    publish_events(&shop, &body, count).await;
    reading.await.unwrap();
    let mut events = 0;
    let mut missed = 0;
    while events + missed < count {
        let event = slow.next_within(PATIENCE).await.expect("the stream goes on");
        match event.event.as_str() {
            "lagged" => missed += event.data["missed"].as_u64().unwrap_or(0),
            _ => events += 1,
        }
    }
    println!("the slow browser got {events} events and missed {missed}");
    assert!(missed > 0 && events > 0);
    assert!(gateway.metric("events_missed_total").await >= Some(missed as f64));
}

async fn publish_events(shop: &Shop, body: &str, count: u64) {
    use lapin::{BasicProperties, Connection, ConnectionProperties, options::BasicPublishOptions};
    let connection = Connection::connect(&shop.amqp_url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    for number in 0..count {
        let properties = BasicProperties::default()
            .with_message_id(format!("large-{number}").as_str().into())
            .with_type("CustomerCreditReserved".into());
        let published = channel.basic_publish(
            "Customer.events".into(),
            // No other queue is bound by this key but the gateway's and the order service's.
            "CustomerCreditReserved".into(),
            BasicPublishOptions::default(),
            body.as_bytes(),
            properties,
        );
        published.await.unwrap().await.unwrap();
    }
    connection.close(200, "published".into()).await.unwrap();
}

/// Anybody may publish into the exchanges. None of it ends a stream or the gateway.
#[tokio::test]
async fn foreign_messages_are_ignored_and_the_stream_goes_on() {
    let shop = shop("foreign").await;
    let gateway = shop.gateway().await;
    let mut browser = listen(&gateway).await;
    let large = format!(r#"{{"orderId": 1, "x": "{}"}}"#, "x".repeat(70_000));
    for (id, event_type, body) in [
        (Some("1"), Some("OrderCreated"), "not JSON"),
        (Some("2"), Some("OrderCreated"), "[1]"),
        (Some("3"), Some("OrderCreated"), r#"{"orderId": "seven"}"#),
        (Some("4"), Some("NeverHeardOf"), r#"{"orderId": 7}"#),
        (Some("5"), None, r#"{"orderId": 7}"#),
        (None, Some("OrderCreated"), r#"{"orderId": 7}"#),
        (Some("a\nevent: OrderApproved"), Some("OrderCreated"), r#"{"orderId": 7}"#),
        (Some("a\0b"), Some("OrderCreated"), r#"{"orderId": 7}"#),
        (Some("6"), Some("OrderCreated"), large.as_str()),
        (Some("7"), Some("OrderCreated"), ""),
    ] {
        let to_exchange = ByHand { id, event_type, body: body.as_bytes() };
        publish(&shop.amqp_url, &own_queue(&shop).await, to_exchange).await;
    }
    let broken = "{\r\n\"orderId\":\r\n7,\n\n\"note\": \"a\\nb\"\r}";
    let good = ByHand { id: Some("8"), event_type: Some("OrderCreated"), body: broken.as_bytes() };
    publish(&shop.amqp_url, &own_queue(&shop).await, good).await;
    let event = browser.next_within(PATIENCE).await.unwrap();
    assert_eq!((event.event.as_str(), event.id.as_deref()), ("OrderCreated", Some("8")));
    assert_eq!(event.data["payload"]["note"], "a\nb");
    assert_eq!(event.data["occurredAt"], serde_json::Value::Null);
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "1").await;
    settled(&shop, order).await;
    events_until(&mut browser, order, "OrderApproved").await;
    assert!(gateway.metric("events_ignored_total").await >= Some(7.0));
}

/// Returns the name of the shop's virtual host.
fn vhost(shop: &Shop) -> String {
    shop.amqp_url.rsplit('/').next().unwrap().replace("%5F", "_")
}

/// Returns the name of the gateway's queue.
async fn own_queue(shop: &Shop) -> String {
    let text =
        testkit::shared_rabbitmq().await.ctl(&["-p", &vhost(shop), "--quiet", "list_queues", "name"]).await;
    text.lines().find(|line| line.starts_with("api-gateway.events.")).unwrap().to_owned()
}

/// A browser that was cut off asks with the id that it saw last.
#[tokio::test]
async fn a_browser_that_returns_learns_that_it_was_away() {
    let gateway = shared_shop().await.gateway().await;
    let mut browser = EventStream::open(gateway.port(), "/api/events", &[("last-event-id", "x")]).await;
    let event = browser.next_within(PATIENCE).await.unwrap();
    assert_eq!(event.event, "lagged");
    let answer = http::request(Method::POST, gateway.port(), "/api/events", &[], String::new()).await;
    assert_eq!(answer.unwrap().0, 405);
}
