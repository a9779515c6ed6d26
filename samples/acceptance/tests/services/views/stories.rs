//! The same stories as in PostgreSQL: what acceptance checks of the history, kills, and rebuilds.

use serde_json::{Value, json};

use super::{Views, ids, rebuilt};
use crate::{
    broker::{ByHand, publish},
    eventually, history_shows, settled,
};

#[tokio::test]
#[ignore = "needs Go and Java: make test-views"]
async fn each_view_shows_every_order_with_its_state() {
    let views = Views::open("stories").await;
    let shop = &views.shop;
    let (status, _) = shop.history.get("/customers/9223372036854775807/orderhistory").await;
    assert_eq!(status, 404);
    assert_eq!(views.found("").await, Vec::<Value>::new(), "before the first event");

    let customer = views.customer("Ada", "10").await;
    let exact = shop.order(customer, "10").await;
    let beyond = shop.order(customer, "0.0001").await;
    let unknown = shop.order(i64::MAX, "1").await;
    let expected = [(exact, "APPROVED"), (beyond, "REJECTED")];
    let history = history_shows(shop, customer, &expected).await;
    assert_eq!((&history["name"], &history["creditLimit"]), (&json!("Ada"), &json!({ "amount": 10 })));
    assert_eq!(history["orders"][1]["rejectionReason"], "INSUFFICIENT_CREDIT");
    assert_eq!(history["orders"][1]["orderTotal"], json!({ "amount": 0.0001 }));
    views.finds("state=APPROVED", &[exact]).await;
    views.finds("state=REJECTED", &[beyond, unknown]).await;
    let rejected = &views.found("state=REJECTED").await;
    assert_eq!(rejected[0]["orderTotal"], json!({ "amount": 0.0001 }));
    assert_eq!(rejected[1]["rejectionReason"], "UNKNOWN_CUSTOMER");
    assert_eq!(rejected[1]["customerName"], Value::Null);

    // A duplicated OrderCreated changes nothing, nor does a late one.
    let details = json!({ "customerId": customer, "orderTotal": { "amount": 10 } });
    let created = json!({ "orderId": exact, "orderDetails": details }).to_string();
    for queue in ["order-history.orders", "order-search.orders"] {
        let message =
            ByHand { id: Some("again"), event_type: Some("OrderCreated"), body: created.as_bytes() };
        publish(&shop.amqp_url, queue, message).await;
    }
    assert_eq!(shop.orders.post(&format!("/orders/{exact}/cancel"), &Value::Null).await.0, 200);
    let again = shop.order(customer, "10").await;
    assert_eq!(settled(shop, again).await.0, "APPROVED", "the credit is free again");
    history_shows(shop, customer, &[(exact, "CANCELLED"), expected[1], (again, "APPROVED")]).await;
    views.finds("state=CANCELLED", &[exact]).await;

    // Pages and filters.
    let path = format!("/customers/{customer}/orderhistory");
    let (_, filtered) = shop.history.get(&format!("{path}?state=APPROVED")).await;
    assert_eq!(ids(filtered["orders"].as_array().unwrap()), [again]);
    let page = shop.history.send(hyper::Method::GET, &format!("{path}?limit=2"), &[], String::new()).await;
    let link = page.headers()["link"].to_str().unwrap();
    let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    assert_eq!(ids(shop.history.get(next).await.1["orders"].as_array().unwrap()), [again]);
    for service in [&shop.history, &views.search] {
        eventually("nothing waits", async || {
            let (status, lag) = service.get("/lag").await;
            let is_done = |stream: &Value| stream["secondsBehind"] == 0 && stream["position"].is_string();
            let streams = lag["streams"].as_array()?;
            (status == 200 && streams.len() == 2 && streams.iter().all(is_done)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs Go and Java: make test-views"]
async fn a_customer_that_comes_late_gives_its_name_to_the_orders_that_came_first() {
    let views = Views::open("late").await;
    let (customer, order) = (i64::MAX - 1, i64::MAX - 2);
    let details = json!({ "customerId": customer, "orderTotal": { "amount": 1_000_000_000_000_i64 } });
    let event = json!({ "orderId": order, "orderDetails": details }).to_string();
    let created =
        json!({ "customerId": customer, "name": "Grace", "creditLimit": { "amount": 10 } }).to_string();
    for program in ["order-history", "order-search"] {
        for (id, event_type) in [("approved", "OrderApproved"), ("created", "OrderCreated")] {
            let message = ByHand { id: Some(id), event_type: Some(event_type), body: event.as_bytes() };
            publish(&views.shop.amqp_url, &format!("{program}.orders"), message).await;
        }
    }
    views.finds("state=APPROVED", &[order]).await;
    views.finds("q=grace", &[]).await;
    assert_eq!(views.shop.history.get(&format!("/customers/{customer}/orderhistory")).await.0, 404);
    for program in ["order-history", "order-search"] {
        let message =
            ByHand { id: Some("late"), event_type: Some("CustomerCreated"), body: created.as_bytes() };
        publish(&views.shop.amqp_url, &format!("{program}.customers"), message).await;
    }
    let history = history_shows(&views.shop, customer, &[(order, "APPROVED")]).await;
    let largest = json!({ "amount": 1_000_000_000_000_i64 });
    assert_eq!((&history["name"], &history["orders"][0]["orderTotal"]), (&json!("Grace"), &largest));
    views.finds("q=grace", &[order]).await;
    assert_eq!(views.found("q=grace").await[0]["orderTotal"], largest);
}

#[tokio::test]
#[ignore = "needs Go and Java: make test-views"]
async fn both_views_equal_a_thousand_orders_after_kills_and_again_after_a_rebuild() {
    let mut views = Views::open("kills").await;
    let mut customers = Vec::new();
    for _ in 0..10 {
        customers.extend([views.customer("Ada", "30").await, views.customer("Grace", "100000").await]);
    }
    for round in 0..20 {
        let placing = async {
            let place = |number: usize| views.shop.order(customers[number % 20], "1.25");
            futures_util::future::join_all((0..50).map(place)).await
        };
        placing.await;
        // Orders of this round are on their way.
        let victim = match round % 4 {
            0 => None,
            1 => Some(&mut views.shop.history),
            2 => Some(&mut views.search),
            _ => {
                views.shop.relay.kill9().await;
                views.shop.relay.start_again();
                continue;
            }
        };
        if let Some(service) = victim {
            service.kill9().await;
            service.start_again();
        }
    }
    for service in views.projectors() {
        service.wait_ready(crate::PATIENCE).await;
    }
    assert_eq!(views.orders().await.len(), 1000);
    views.equal_the_orders(&customers).await;
    // Two events of each order, and the customers.
    for service in views.projectors() {
        let printed = rebuilt(service).await;
        assert!(printed.contains("from 2020 events") && !printed.contains("no retained event"), "{printed}");
    }
    views.equal_the_orders(&customers).await;
}

#[tokio::test]
#[ignore = "needs Go and Java: make test-views"]
async fn rebuilds_beside_running_services_neither_lose_nor_stop_anything() {
    let views = Views::open("rebuilds").await;
    let customer = views.customer("Ada", "1000").await;
    let placing = async {
        for _ in 0..60 {
            views.shop.order(customer, "1").await;
        }
    };
    let asking = async {
        for _ in 0..100 {
            let (status, answer) = views.search.get("/orders/search?q=ada").await;
            assert_eq!(status, 200, "{answer}");
            let path = format!("/customers/{customer}/orderhistory");
            let (status, answer) = views.shop.history.get(&path).await;
            assert!(status == 200 || status == 404, "{answer}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let rebuilding = async |service| {
        for _ in 0..3 {
            let output = testkit::Service::command(service, &["rebuild"]).await;
            // Before the first event there is nothing to rebuild from.
            assert!(
                output.status.success() || output.stderr.windows(8).any(|w| w == b"retained"),
                "{output:?}"
            );
        }
    };
    tokio::join!(placing, asking, rebuilding(&views.shop.history), rebuilding(&views.search));
    views.equal_the_orders(&[customer]).await;
    // Only the last generation is left.
    let indices = testkit::shared_opensearch().await;
    let names = indices.ask(hyper::Method::GET, &format!("/_alias/{}-*", views.prefix), Value::Null).await;
    assert_eq!(names.as_object().unwrap().len(), 2, "{names}");
}
