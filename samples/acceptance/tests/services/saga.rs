//! The saga of an order, in both styles.

use serde_json::{Value, json};

use crate::{eventually, history_shows, settled, shared_shop, shared_shop_of};

in_both_styles!(
    an_order_within_the_limit_is_approved_and_shown_with_its_customer,
    an_order_of_just_the_limit_is_approved_and_one_of_a_little_more_is_not,
    a_rejected_order_stays_in_the_history_beside_an_approved_one,
    an_order_of_an_unknown_customer_is_rejected_and_makes_no_customer,
    a_cancelled_order_gives_its_credit_back,
    only_an_approved_order_can_be_cancelled,
    orders_placed_at_the_same_time_never_exceed_the_limit_together,
    a_placed_order_is_pending_and_where_it_says,
);

fn approved() -> (String, Value) {
    ("APPROVED".to_owned(), Value::Null)
}

fn rejected(reason: &str) -> (String, Value) {
    ("REJECTED".to_owned(), json!(reason))
}

async fn an_order_within_the_limit_is_approved_and_shown_with_its_customer(style: &str) {
    let shop = shared_shop_of(style).await;
    let customer = shop.customer("15.00").await;
    let order = shop.order(customer, "12.34").await;
    assert_eq!(settled(shop, order).await, approved());
    let history = history_shows(shop, customer, &[(order, "APPROVED")]).await;
    assert_eq!(
        history,
        json!({ "customerId": customer, "name": "Ada", "creditLimit": { "amount": 15 }, "orders": [{
            "orderId": order, "state": "APPROVED", "orderTotal": { "amount": 12.34 }, "rejectionReason": null
        }] })
    );
}

async fn an_order_of_just_the_limit_is_approved_and_one_of_a_little_more_is_not(style: &str) {
    let shop = shared_shop_of(style).await;
    // In binary fractions 0.1 + 0.2 exceeds 0.3.
    let customer = shop.customer("0.3").await;
    let first = shop.order(customer, "0.1").await;
    assert_eq!(settled(shop, first).await, approved());
    let too_much = shop.order(customer, "0.2001").await;
    assert_eq!(settled(shop, too_much).await, rejected("INSUFFICIENT_CREDIT"));
    let just = shop.order(customer, "0.2").await;
    assert_eq!(settled(shop, just).await, approved());
}

async fn a_rejected_order_stays_in_the_history_beside_an_approved_one(style: &str) {
    let shop = shared_shop_of(style).await;
    let customer = shop.customer("100").await;
    let first = shop.order(customer, "60").await;
    let second = shop.order(customer, "60").await;
    assert_eq!(settled(shop, first).await, approved());
    assert_eq!(settled(shop, second).await, rejected("INSUFFICIENT_CREDIT"));
    let history = history_shows(shop, customer, &[(first, "APPROVED"), (second, "REJECTED")]).await;
    assert_eq!(history["orders"][1]["rejectionReason"], "INSUFFICIENT_CREDIT");
}

async fn an_order_of_an_unknown_customer_is_rejected_and_makes_no_customer(style: &str) {
    let shop = shared_shop_of(style).await;
    let order = shop.order(i64::MAX, "1").await;
    assert_eq!(settled(shop, order).await, rejected("UNKNOWN_CUSTOMER"));
    for service in [&shop.customers, &shop.history] {
        let path = if std::ptr::eq(service, &shop.customers) { "" } else { "/orderhistory" };
        let (status, answer) = service.get(&format!("/customers/{}{path}", i64::MAX)).await;
        assert_eq!(status, 404, "{answer}");
        assert!(answer["error"].is_string());
    }
}

async fn a_cancelled_order_gives_its_credit_back(style: &str) {
    let shop = shared_shop_of(style).await;
    let customer = shop.customer("10").await;
    let first = shop.order(customer, "10").await;
    assert_eq!(settled(shop, first).await, approved());
    let (status, answer) = shop.orders.post(&format!("/orders/{first}/cancel"), &json!(null)).await;
    assert_eq!(
        (status, answer),
        (200, json!({ "orderId": first, "orderState": "CANCELLED", "rejectionReason": null }))
    );
    history_shows(shop, customer, &[(first, "CANCELLED")]).await;

    // The credit is released a moment later, when the customer service handles the event.
    let second = eventually("the credit is free again", async || {
        let order = shop.order(customer, "10").await;
        (settled(shop, order).await == approved()).then_some(order)
    })
    .await;
    let (status, _) = shop.orders.post(&format!("/orders/{first}/cancel"), &json!(null)).await;
    assert_eq!(status, 409, "an order is cancelled once");
    let third = shop.order(customer, "0.0001").await;
    assert_eq!(settled(shop, third).await, rejected("INSUFFICIENT_CREDIT"), "and its credit is freed once");
    assert_eq!(shop.state_of(second).await, approved());
}

async fn only_an_approved_order_can_be_cancelled(style: &str) {
    let shop = shared_shop_of(style).await;
    let order = shop.order(i64::MAX, "1").await;
    settled(shop, order).await;
    let (status, answer) = shop.orders.post(&format!("/orders/{order}/cancel"), &json!(null)).await;
    assert_eq!(status, 409);
    assert!(answer["error"].as_str().unwrap().contains("REJECTED"), "{answer}");
    let (status, _) = shop.orders.post("/orders/9223372036854775807/cancel", &json!(null)).await;
    assert_eq!(status, 404);
}

async fn orders_placed_at_the_same_time_never_exceed_the_limit_together(style: &str) {
    let shop = shared_shop_of(style).await;
    let customer = shop.customer("10").await;
    let (one, other) = tokio::join!(shop.order(customer, "6"), shop.order(customer, "6"));
    let states = [settled(shop, one).await, settled(shop, other).await];
    let approvals = states.iter().filter(|state| **state == approved()).count();
    assert_eq!(approvals, 1, "{states:?}");
}

#[tokio::test]
async fn lists_come_in_pages_that_lead_from_one_to_the_next() {
    let shop = shared_shop().await;
    let customers = [shop.customer("1").await, shop.customer("2").await, shop.customer("3").await];
    let path = format!("/customers?limit=2&after={}", customers[0] - 1);
    let answer = shop.customers.send(hyper::Method::GET, &path, &[], String::new()).await;
    let link = answer.headers()["link"].to_str().unwrap();
    let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    let page: Value = serde_json::from_str(answer.body()).unwrap();
    assert_eq!(page["customers"].as_array().unwrap().len(), 2);
    let last = page["customers"][1]["customerId"].as_i64().unwrap();
    let (status, page) = shop.customers.get(next).await;
    assert_eq!(status, 200);
    assert!(page["customers"][0]["customerId"].as_i64().unwrap() > last);

    let (status, one) = shop.customers.get(&format!("/customers/{}", customers[2])).await;
    let expected = json!({ "customerId": customers[2], "name": "Ada", "creditLimit": { "amount": 3 } });
    assert_eq!((status, &one), (200, &expected));
    let (_, all) = shop.customers.get("/customers").await;
    assert!(all["customers"].as_array().unwrap().contains(&expected));
}

async fn a_placed_order_is_pending_and_where_it_says(style: &str) {
    let shop = shared_shop_of(style).await;
    let body = r#"{"customerId": 9223372036854775807, "orderTotal": {"amount": 1e0}}"#;
    let answer = shop.orders.send(hyper::Method::POST, "/orders", &[], body.to_owned()).await;
    assert_eq!(answer.status().as_u16(), 201);
    let order = serde_json::from_str::<Value>(answer.body()).unwrap()["orderId"].as_i64().unwrap();
    assert_eq!(answer.headers()["location"], format!("/orders/{order}"));
    let (status, orders) = shop.orders.get("/orders").await;
    assert_eq!(status, 200);
    let ids = orders["orders"].as_array().unwrap().iter().map(|order| order["orderId"].as_i64().unwrap());
    assert!(ids.into_iter().any(|id| id == order), "{orders}");
}
