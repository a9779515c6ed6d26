//! Requests that one service answers.

use crate::{eventually, settled, shared_shop};
use serde_json::json;

#[tokio::test]
async fn a_browser_needs_no_other_address() {
    let shop = shared_shop().await;
    let gateway = shop.gateway().await;
    let (status, customer) =
        gateway.post("/api/customers", &json!({"name": "Ada", "creditLimit": {"amount": 10}})).await;
    assert_eq!(status, 201, "{customer}");
    let customer = customer["customerId"].as_i64().unwrap();
    let body = json!({"customerId": customer, "orderTotal": {"amount": 9.99}});
    let placed = gateway.send(hyper::Method::POST, "/api/orders", &[], body.to_string()).await;
    assert_eq!(placed.status(), 201);
    let location = placed.headers()["location"].to_str().unwrap().to_owned();
    let order = location.strip_prefix("/api/orders/").unwrap().parse().unwrap();
    assert_eq!(settled(shop, order).await.0, "APPROVED");
    assert_eq!(gateway.get(&location).await, shop.orders.get(&format!("/orders/{order}")).await);
    assert_eq!(
        gateway.get(&format!("/api/orders?customerId={customer}")).await.1["orders"][0]["orderId"],
        order
    );
    let history = format!("/customers/{customer}/orderhistory");
    eventually("the view has the order", async || {
        let (status, view) = gateway.get(&format!("/api{history}?state=APPROVED")).await;
        (status == 200 && view["orders"][0]["orderId"] == order).then_some(())
    })
    .await;
    let (status, cancelled) = gateway.post(&format!("/api/orders/{order}/cancel"), &json!({})).await;
    assert_eq!((status, &cancelled["orderState"]), (200, &json!("CANCELLED")));
}

#[tokio::test]
async fn a_refusal_is_passed_on_as_it_is() {
    let shop = shared_shop().await;
    let gateway = shop.gateway().await;
    let order = shop.order(0, "1").await;
    settled(shop, order).await;
    for (path, body) in [
        (format!("/orders/{order}/cancel"), String::new()),
        ("/orders/0/cancel".to_owned(), String::new()),
        ("/orders".to_owned(), "{".to_owned()),
        ("/orders".to_owned(), r#"{"customerId": 1, "orderTotal": {"amount": -1}}"#.to_owned()),
        ("/customers".to_owned(), r#"{"name": ""}"#.to_owned()),
    ] {
        let direct = if path == "/customers" { &shop.customers } else { &shop.orders };
        let expected = direct.ask(hyper::Method::POST, &path, body.clone()).await;
        assert!((400..500).contains(&expected.0));
        assert_eq!(gateway.ask(hyper::Method::POST, &format!("/api{path}"), body).await, expected, "{path}");
    }
    for path in [
        "/orders/0",
        "/orders/0/saga",
        &format!("/orders/{order}/saga"),
        "/orders?limit=0",
        "/orders?customerId=x",
        "/customers/0/orderhistory",
    ] {
        let direct = if path.starts_with("/orders") { &shop.orders } else { &shop.history };
        assert_eq!(gateway.get(&format!("/api{path}")).await, direct.get(path).await, "{path}");
    }
    assert_eq!(gateway.get("/api/orders/search?q=a").await.0, 404);
}
