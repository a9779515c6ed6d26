//! A customer with its orders, composed.

use crate::{settled, shared_shop};
use serde_json::json;

#[tokio::test]
async fn a_composed_answer_is_the_sum_of_its_parts() {
    let shop = shared_shop().await;
    let gateway = shop.gateway().await;
    let customer = shop.customer("1000.1000").await;
    let mut orders = Vec::new();
    for total in ["999.99", "0.11", "7"] {
        let order = shop.order(customer, total).await;
        settled(shop, order).await;
        orders.push(order);
    }
    shop.order(shop.customer("1").await, "1").await;
    let (status, whole) = gateway.get(&format!("/api/customers/{customer}/orders")).await;
    assert_eq!(status, 200, "{whole}");
    assert_eq!(whole["customer"], shop.customers.get(&format!("/customers/{customer}")).await.1);
    assert_eq!(whole["unavailable"], json!([]));
    let mut parts = Vec::new();
    for order in &orders {
        parts.push(shop.orders.get(&format!("/orders/{order}")).await.1);
    }
    assert_eq!(whole["orders"], json!(parts));
    assert_eq!(whole["orders"][1]["orderState"], "APPROVED");
    assert_eq!(whole["orders"][2]["rejectionReason"], "INSUFFICIENT_CREDIT");

    // Digits are those of the service, which no parser has touched.
    let path = format!("/api/customers/{customer}/orders?limit=2");
    let answer = gateway.send(hyper::Method::GET, &path, &[], String::new()).await;
    assert!(answer.body().contains(r#""creditLimit":{"amount":1000.1}"#), "{}", answer.body());
    let timing = answer.headers()["server-timing"].to_str().unwrap();
    assert!(timing.contains("customer-service;dur=") && timing.contains("order-service;dur="), "{timing}");
    let link = answer.headers()["link"].to_str().unwrap();
    let next = link.strip_prefix('<').unwrap().split('>').next().unwrap();
    let (_, rest) = gateway.get(next).await;
    assert_eq!(rest["orders"], json!([parts[2]]));
}

#[tokio::test]
async fn a_customer_that_does_not_exist_is_an_answer() {
    let shop = shared_shop().await;
    let gateway = shop.gateway().await;
    for _ in 0..8 {
        let (status, answer) = gateway.get("/api/customers/0/orders").await;
        assert_eq!((status, answer), (404, shop.customers.get("/customers/0").await.1));
    }
    for service in ["customer-service", "order-service", "order-history"] {
        let circuit = super::circuit(&gateway, service).await;
        assert_eq!(circuit, json!({"service": service, "state": "closed", "failures": 0, "retryInMs": null}));
    }
}
