//! What becomes of an order.

use serde_json::{Value, json};

use crate::{
    eventually,
    support::{Shop, shared_postgres, shared_rabbitmq},
};

async fn shop(test: &str) -> Shop {
    Shop::open(test, shared_postgres().await, shared_rabbitmq().await).await
}

/// Waits until the order is not PENDING any more.
pub(crate) async fn settled(shop: &Shop, order: i64) -> (String, Value) {
    eventually("the order is settled", async || {
        Some(shop.state_of(order).await).filter(|(state, _)| state != "PENDING")
    })
    .await
}

/// Waits until the history shows these orders of the customer, in these states.
pub(crate) async fn history_shows(shop: &Shop, customer: i64, expected: &[(i64, &str)]) -> Value {
    let path = format!("/customers/{customer}/orderhistory");
    eventually(&format!("{path} shows {expected:?}"), async || {
        let (status, history) = shop.history.get(&path).await;
        let orders = history["orders"].as_array()?;
        let shown: Vec<(i64, &str)> = orders
            .iter()
            .filter_map(|order| Some((order["orderId"].as_i64()?, order["state"].as_str()?)))
            .collect();
        (status == 200 && shown == expected).then(|| history.clone())
    })
    .await
}

#[tokio::test]
async fn an_order_within_the_limit_is_approved_and_shown_with_its_customer() {
    let shop = shop("approve").await;
    let customer = shop.customer("15.00").await;
    let order = shop.order(customer, "12.34").await;
    assert_eq!(settled(&shop, order).await, ("APPROVED".to_owned(), Value::Null));
    let history = history_shows(&shop, customer, &[(order, "APPROVED")]).await;
    assert_eq!(
        history,
        json!({ "customerId": customer, "name": "Ada", "creditLimit": { "amount": 15 }, "orders": [{
            "orderId": order, "state": "APPROVED", "orderTotal": { "amount": 12.34 }, "rejectionReason": null
        }] })
    );
}
