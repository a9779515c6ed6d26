//! Several instances of each service at once.

use hyper::Method;

use crate::{eventually, history_shows, settled, shop};
use testkit::{Service, Shop};

/// Starts a second instance of each service.
async fn seconds(shop: &Shop) -> [Service; 3] {
    let [orders, customers, history] = &shop.databases;
    tokio::join!(
        Service::start("order-service", orders, &shop.amqp_url),
        Service::start("customer-service", customers, &shop.amqp_url),
        Service::start("order-history", history, &shop.amqp_url),
    )
    .into()
}

#[tokio::test]
async fn requests_to_both_instances_end_in_one_history() {
    let shop = shop("two").await;
    let [orders, _customers, history] = seconds(&shop).await;
    let customer = shop.customer("20").await;
    let body = format!(r#"{{"customerId": {customer}, "orderTotal": {{"amount": 1}}}}"#);
    let mut ids = Vec::new();
    for number in 0..40 {
        let service = if number % 2 == 0 { &shop.orders } else { &orders };
        let (status, answer) = service.ask(Method::POST, "/orders", body.clone()).await;
        assert_eq!(status, 201);
        ids.push(answer["orderId"].as_i64().unwrap());
    }
    let mut states = Vec::new();
    for id in &ids {
        states.push((*id, settled(&shop, *id).await.0));
    }
    let approved = states.iter().filter(|(_, state)| state == "APPROVED").count();
    assert_eq!(approved, 20, "{states:?}");
    let expected: Vec<(i64, &str)> = states.iter().map(|(id, state)| (*id, state.as_str())).collect();
    let shown = history_shows(&shop, customer, &expected).await;
    assert_eq!(history.get(&format!("/customers/{customer}/orderhistory")).await.1, shown);
}

#[tokio::test]
async fn one_order_is_cancelled_once_by_however_many() {
    let shop = shop("cancel_race").await;
    let [orders, ..] = seconds(&shop).await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "10").await;
    settled(&shop, order).await;
    let path = format!("/orders/{order}/cancel");
    let cancel = |service| {
        let path = &path;
        async move { Service::ask(service, Method::POST, path, String::new()).await.0 }
    };
    let statuses: [u16; 4] =
        tokio::join!(cancel(&shop.orders), cancel(&orders), cancel(&shop.orders), cancel(&orders)).into();
    let mut sorted = statuses;
    sorted.sort_unstable();
    assert_eq!(sorted, [200, 409, 409, 409]);
    history_shows(&shop, customer, &[(order, "CANCELLED")]).await;
}

#[tokio::test]
async fn the_other_instance_takes_over_in_mid_stream() {
    let mut shop = shop("takeover").await;
    let mut others = seconds(&shop).await;
    let customer = shop.customer("100").await;
    let mut ids = Vec::new();
    let body = format!(r#"{{"customerId": {customer}, "orderTotal": {{"amount": 1}}}}"#);
    for number in 0..120 {
        // The consuming instance is killed sooner or later. Its successor continues.
        match number {
            20 => shop.orders.kill9().await,
            30 => shop.customers.kill9().await,
            50 => {
                shop.customers.start_again();
                shop.customers.wait_ready(crate::PATIENCE).await;
            }
            70 => others[1].kill9().await,
            80 => {
                shop.orders.start_again();
                shop.orders.wait_ready(crate::PATIENCE).await;
                shop.history.kill9().await;
            }
            100 => assert!(others[0].sigterm(crate::PATIENCE).await.success()),
            _ => {}
        }
        let orders = if (20..80).contains(&number) { &others[0] } else { &shop.orders };
        let (status, answer) = orders.ask(Method::POST, "/orders", body.clone()).await;
        assert_eq!(status, 201, "{answer}");
        ids.push(answer["orderId"].as_i64().unwrap());
    }
    let mut approved = Vec::new();
    for id in &ids {
        let state = settled(&shop, *id).await.0;
        approved.push((*id, if state == "APPROVED" { "APPROVED" } else { "REJECTED" }));
    }
    assert_eq!(approved.iter().filter(|(_, state)| *state == "APPROVED").count(), 100);
    let path = format!("/customers/{customer}/orderhistory");
    eventually("the surviving instance shows them all", async || {
        let (_, history) = others[2].get(&path).await;
        let orders = history["orders"].as_array()?;
        let shown: Vec<(i64, &str)> = orders
            .iter()
            .filter_map(|order| Some((order["orderId"].as_i64()?, order["state"].as_str()?)))
            .collect();
        (shown == approved).then_some(())
    })
    .await;
}
