//! The order history, a view: its queries, its lag, and its rebuild.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use testkit::{Daemon, Shop};
use tokio_postgres::{Client, NoTls};

use crate::{
    broker::{ByHand, publish, publish_as, text_header},
    eventually, history_shows, settled, shared_shop, shop,
};

/// A client of the view's database.
async fn view(shop: &Shop) -> Client {
    let (client, connection) = tokio_postgres::connect(&shop.databases[2], NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Places an order within the customer's limit and one beyond it. Returns the customer, the orders with their states, and the view.
async fn two_orders(shop: &Shop) -> (i64, [(i64, &'static str); 2], Value) {
    let customer = shop.customer("10").await;
    let orders = [shop.order(customer, "6").await, shop.order(customer, "6").await];
    let expected = [(orders[0], "APPROVED"), (orders[1], "REJECTED")];
    let before = history_shows(shop, customer, &expected).await;
    (customer, expected, before)
}

/// Has outboxd publish all rows of both outbox tables again.
async fn replay(relay: &Daemon) {
    for source in ["orders", "customers"] {
        let output = relay.command(&["replay", "--source", source]).await;
        assert!(output.status.success(), "{output:?}");
    }
}

fn ids(history: &Value) -> Vec<i64> {
    history["orders"].as_array().unwrap().iter().map(|order| order["orderId"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn it_is_filtered_by_state_and_comes_in_pages() {
    let shop = shared_shop().await;
    let customer = shop.customer("3").await;
    let mut orders = Vec::new();
    for _ in 0..5 {
        orders.push(shop.order(customer, "1").await);
    }
    let expected: Vec<(i64, &str)> = orders
        .iter()
        .enumerate()
        .map(|(number, order)| (*order, if number < 3 { "APPROVED" } else { "REJECTED" }))
        .collect();
    history_shows(shop, customer, &expected).await;
    let path = format!("/customers/{customer}/orderhistory");
    let (_, rejected) = shop.history.get(&format!("{path}?state=REJECTED")).await;
    assert_eq!(ids(&rejected), orders[3..]);
    let (_, none) = shop.history.get(&format!("{path}?state=CANCELLED")).await;
    assert_eq!((ids(&none), &none["name"]), (vec![], &json!("Ada")));

    let page = format!("{path}?state=APPROVED&limit=2");
    let first = shop.history.send(hyper::Method::GET, &page, &[], String::new()).await;
    let link = first.headers()["link"].to_str().unwrap();
    let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    assert_eq!(ids(&serde_json::from_str(first.body()).unwrap()), orders[..2]);
    let (_, second) = shop.history.get(next).await;
    assert_eq!(ids(&second), orders[2..3]);
}

#[tokio::test]
async fn an_order_may_come_before_its_customer_who_is_no_phantom_meanwhile() {
    let shop = shared_shop().await;
    let (customer, order) = (i64::MAX - 1000, i64::MAX - 1000);
    let details = json!({ "customerId": customer, "orderTotal": { "amount": 7.77 } });
    let event = json!({ "orderId": order, "orderDetails": details }).to_string();
    for (id, event_type) in [("approved", "OrderApproved"), ("created", "OrderCreated")] {
        let message = ByHand { id: Some(id), event_type: Some(event_type), body: event.as_bytes() };
        publish(&shop.amqp_url, "order-history.orders", message).await;
    }
    let path = format!("/customers/{customer}/orderhistory");
    eventually("the order is in the view", async || {
        let client = view(shop).await;
        client.query_opt("SELECT FROM orders WHERE id = $1", &[&order]).await.unwrap()
    })
    .await;
    assert_eq!(shop.history.get(&path).await.0, 404);

    let created =
        json!({ "customerId": customer, "name": "Grace", "creditLimit": { "amount": 10 } }).to_string();
    let message = ByHand { id: Some("late"), event_type: Some("CustomerCreated"), body: created.as_bytes() };
    publish(&shop.amqp_url, "order-history.customers", message).await;
    let history = history_shows(shop, customer, &[(order, "APPROVED")]).await;
    assert_eq!(history["name"], "Grace");
    assert_eq!(history["orders"][0]["orderTotal"], json!({ "amount": 7.77 }));
}

#[tokio::test]
async fn it_says_how_far_it_has_come_and_answers_while_both_services_are_down() {
    let mut shop = shop("lag").await;
    let (_, lag) = shop.history.get("/lag").await;
    assert_eq!(lag["streams"][0]["stream"], "Order");
    assert_eq!(lag["streams"][0]["position"], Value::Null);
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "10").await;
    history_shows(&shop, customer, &[(order, "APPROVED")]).await;
    for service in [&mut shop.orders, &mut shop.customers] {
        assert!(service.sigterm(crate::PATIENCE).await.success());
    }
    history_shows(&shop, customer, &[(order, "APPROVED")]).await;
    let lag = eventually("nothing waits", async || {
        let (status, lag) = shop.history.get("/lag").await;
        let behind = |stream: usize| lag["streams"][stream]["secondsBehind"].as_i64();
        (status == 200 && behind(0) == Some(0) && behind(1) == Some(0)).then_some(lag.clone())
    })
    .await;
    for (number, (stream, source)) in [("Order", "orders"), ("Customer", "customers")].into_iter().enumerate()
    {
        let shown = &lag["streams"][number];
        assert_eq!((&shown["stream"], &shown["source"]), (&json!(stream), &json!(source)));
        assert_eq!(shown["position"].as_str().map(str::len), Some(16 + 1 + 8), "{lag}");
        assert_eq!(shown["waiting"], 0);
    }
}

#[tokio::test]
async fn it_is_behind_while_an_event_cannot_be_applied() {
    let shop = shop("behind").await;
    let customer = shop.customer("10").await;
    history_shows(&shop, customer, &[]).await;
    let mut client = view(&shop).await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    let order = shop.order(customer, "10").await;
    let behind = eventually("the stream of orders is behind", async || {
        let (_, lag) = shop.history.get("/lag").await;
        lag["streams"][0]["secondsBehind"].as_i64().filter(|seconds| *seconds >= 2)
    })
    .await;
    assert!(behind < 90);
    lock.rollback().await.unwrap();
    history_shows(&shop, customer, &[(order, "APPROVED")]).await;
}

#[tokio::test]
async fn a_replayed_event_mends_the_view_and_a_mere_copy_does_not_touch_it() {
    let shop = shared_shop().await;
    let customer = shop.customer("10").await;
    history_shows(shop, customer, &[]).await;
    let client = view(shop).await;
    client.execute("DELETE FROM customers WHERE id = $1", &[&customer]).await.unwrap();
    let select = "SELECT message_id, body FROM events WHERE event_type = 'CustomerCreated' \
                  AND convert_from(body, 'UTF8')::jsonb ->> 'customerId' = $1::text";
    let event = client.query_one(select, &[&customer.to_string()]).await.unwrap();
    let (id, body): (&str, &[u8]) = (event.get(0), event.get(1));
    let properties =
        BasicProperties::default().with_message_id(id.into()).with_type("CustomerCreated".into());
    let path = format!("/customers/{customer}/orderhistory");
    let copy = properties.clone().with_headers(text_header("outbox-source", "customers"));
    publish_as(&shop.amqp_url, "order-history.customers", copy, body).await;
    // A later message of the same queue.
    let next = shop.customer("1").await;
    history_shows(shop, next, &[]).await;
    assert_eq!(shop.history.get(&path).await.0, 404);

    let mut headers = FieldTable::default();
    headers.insert("outbox-replayed".into(), AMQPValue::Boolean(true));
    let replayed = properties.with_headers(headers);
    publish_as(&shop.amqp_url, "order-history.customers", replayed, body).await;
    history_shows(shop, customer, &[]).await;
}

#[tokio::test]
async fn a_view_that_was_lost_is_made_anew_from_retained_events() {
    let shop = shop("rebuild").await;
    let (customer, expected, before) = two_orders(&shop).await;
    let client = view(&shop).await;
    client.batch_execute("DELETE FROM orders; UPDATE customers SET name = 'Mallory'").await.unwrap();

    let output = shop.history.command(&["rebuild"]).await;
    assert!(output.status.success(), "{output:?}");
    // Two created, one approved, one rejected, and the customer.
    assert!(String::from_utf8_lossy(&output.stdout).contains("from 5 events"), "{output:?}");
    assert_eq!(history_shows(&shop, customer, &expected).await, before);
    assert_eq!(shop.history.command(&["rebuild", "--help"]).await.status.code(), Some(0));

    // Events after a rebuild are applied.
    let next = shop.order(customer, "4").await;
    assert_eq!(settled(&shop, next).await.0, "APPROVED");
    history_shows(&shop, customer, &[expected[0], expected[1], (next, "APPROVED")]).await;
}

#[tokio::test]
async fn rebuilds_beside_a_running_service_neither_lose_nor_stop_anything() {
    let shop = shop("rebuild_live").await;
    let customer = shop.customer("1000").await;
    let placing = async {
        let mut orders = Vec::new();
        for _ in 0..60 {
            orders.push(shop.order(customer, "1").await);
        }
        orders
    };
    let rebuilding = async {
        for _ in 0..5 {
            let output = shop.history.command(&["rebuild"]).await;
            assert!(output.status.success(), "{output:?}");
        }
    };
    let (orders, ()) = tokio::join!(placing, rebuilding);
    let expected: Vec<(i64, &str)> = orders.iter().map(|order| (*order, "APPROVED")).collect();
    history_shows(&shop, customer, &expected).await;
}

#[tokio::test]
async fn a_view_that_was_lost_with_its_events_comes_back_by_a_replay() {
    let shop = shop("replay").await;
    let (customer, expected, before) = two_orders(&shop).await;
    let client = view(&shop).await;
    client.batch_execute("TRUNCATE orders, customers, events, streams").await.unwrap();
    replay(&shop.relay).await;
    assert_eq!(history_shows(&shop, customer, &expected).await, before);
    // The other two services ignore the replay.
    let next = shop.order(customer, "4").await;
    assert_eq!(settled(&shop, next).await.0, "APPROVED");
    let last = shop.order(customer, "0.01").await;
    assert_eq!(settled(&shop, last).await.0, "REJECTED");
}

#[tokio::test]
async fn a_view_whose_tables_were_dropped_is_made_anew_from_retained_events() {
    let shop = shop("dropped").await;
    let (customer, expected, before) = two_orders(&shop).await;
    let client = view(&shop).await;
    // An event that an earlier version accepted, and that this one cannot apply.
    let bad = "INSERT INTO events (message_id, event_type, body) VALUES ('bad', 'OrderCreated', $1)";
    let body = format!(
        r#"{{"orderId": 1, "orderDetails": {{"customerId": {customer}, "orderTotal": {{"amount": -1}}}}}}"#
    );
    client.execute(bad, &[&body.as_bytes()]).await.unwrap();
    client.batch_execute("DROP TABLE orders, customers").await.unwrap();

    let output = shop.history.command(&["rebuild"]).await;
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("from 5 events") && stdout.contains("are invalid (the log has each): 1"),
        "{stdout}"
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("amount must be more than zero"), "{output:?}");
    assert_eq!(history_shows(&shop, customer, &expected).await, before);
    // The service ran all the time, and continues.
    let next = shop.order(customer, "4").await;
    history_shows(&shop, customer, &[expected[0], expected[1], (next, "APPROVED")]).await;
}

#[tokio::test]
async fn a_view_that_was_dropped_with_its_events_says_so_and_comes_back_by_a_replay() {
    let mut shop = shop("dropped_whole").await;
    let (customer, expected, before) = two_orders(&shop).await;
    let client = view(&shop).await;

    // Without the table of events alone, the view stays.
    client.batch_execute("DROP TABLE events").await.unwrap();
    let refused = async |history: &testkit::Service| {
        let output = history.command(&["rebuild"]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        for part in ["the view is as it was", "no event is retained", "outboxd replay --source orders"] {
            assert!(stderr.contains(part), "no {part} in {stderr}");
        }
    };
    refused(&shop.history).await;
    assert_eq!(history_shows(&shop, customer, &expected).await, before);

    assert!(shop.history.sigterm(crate::PATIENCE).await.success());
    client.batch_execute("DROP TABLE orders, customers, events, streams").await.unwrap();
    refused(&shop.history).await;
    client.batch_execute("DROP TABLE orders, customers, events, streams").await.unwrap();
    shop.history.start_again();
    shop.history.wait_ready(crate::PATIENCE).await;
    let (status, _) = shop.history.get(&format!("/customers/{customer}/orderhistory")).await;
    assert_eq!(status, 404, "there is nothing in it");
    assert!(shop.history.log().contains("dropped tables are created again, empty"));
    replay(&shop.relay).await;
    assert_eq!(history_shows(&shop, customer, &expected).await, before);
    let output = shop.history.command(&["rebuild"]).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("from 5 events"), "{output:?}");
    assert_eq!(history_shows(&shop, customer, &expected).await, before);
}

#[tokio::test]
async fn a_rebuild_from_some_of_the_events_says_what_is_gone() {
    let shop = shop("partly").await;
    let customer = shop.customer("10").await;
    let orders = [shop.order(customer, "4").await, shop.order(customer, "4").await];
    history_shows(&shop, customer, &[(orders[0], "APPROVED"), (orders[1], "APPROVED")]).await;
    let client = view(&shop).await;
    let forget = "DELETE FROM events WHERE convert_from(body, 'UTF8')::jsonb ->> 'orderId' = $1::text";
    client.execute(forget, &[&orders[0].to_string()]).await.unwrap();
    let output = shop.history.command(&["rebuild"]).await;
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && stdout.contains("no retained event tells of: 1;"), "{output:?}");
    history_shows(&shop, customer, &[(orders[1], "APPROVED")]).await;
}
