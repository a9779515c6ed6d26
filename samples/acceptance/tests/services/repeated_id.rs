//! Repeated ids, after the database that assigns them was created again or restored.

use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::{
    broker::{header, take},
    eventually, history_shows, settled, shop,
};
use testkit::{Service, shared_postgres, shared_rabbitmq, unique};

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Deletes an order, so that its id is assigned again.
async fn set_back(orders: &Client, order: i64) {
    orders.execute("DELETE FROM orders WHERE id = $1", &[&order]).await.unwrap();
    let again = "SELECT setval(pg_get_serial_sequence('orders', 'id'), $1, false)";
    orders.query_one(again, &[&order]).await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_made_anew_repeats_no_id() {
    let (postgres, rabbitmq) = (shared_postgres().await, shared_rabbitmq().await);
    let name = unique("anew");
    let (database, amqp) = (postgres.create_database(&name).await, rabbitmq.create_vhost(&name).await);
    for (program, path, body, id) in [
        ("order-service", "/orders", json!({ "customerId": 1, "orderTotal": { "amount": 1 } }), "orderId"),
        (
            "customer-service",
            "/customers",
            json!({ "name": "Ada", "creditLimit": { "amount": 1 } }),
            "customerId",
        ),
    ] {
        let mut ids = Vec::new();
        for _ in 0..2 {
            let mut service = Service::start(program, &database, &amqp).await;
            for _ in 0..20 {
                let (status, answer) = service.post(path, &body).await;
                assert_eq!(status, 201, "{answer}");
                ids.push(answer[id].as_i64().unwrap());
            }
            assert!(service.sigterm(crate::PATIENCE).await.success());
            let again = "DROP SCHEMA public CASCADE; CREATE SCHEMA public";
            client(&database).await.batch_execute(again).await.unwrap();
        }
        assert!(ids.is_sorted_by(|before, after| before < after), "{ids:?}");
        assert!(ids.iter().all(|id| *id < 1 << 53), "exact also where numbers are doubles: {ids:?}");
    }
}

#[tokio::test]
async fn an_order_whose_id_came_again_gets_its_decision() {
    let shop = shop("id_again").await;
    let customer = shop.customer("10").await;
    let stranger = customer + 1_000_000_000;
    let orders = client(&shop.databases[0]).await;
    for (customer, total, expected) in
        [(customer, "7", "APPROVED"), (customer, "100", "REJECTED"), (stranger, "1", "REJECTED")]
    {
        let order = shop.order(customer, total).await;
        let first = settled(&shop, order).await;
        assert_eq!(first.0, expected);
        set_back(&orders, order).await;
        assert_eq!(shop.order(customer, total).await, order, "the id came again");
        assert_eq!(settled(&shop, order).await, first, "and so does the decision");
    }
    assert!(shop.customers.log().contains("or an order id that came again"));
    // The credit is reserved only once.
    let rest = shop.order(customer, "3").await;
    assert_eq!(settled(&shop, rest).await.0, "APPROVED");
}

#[tokio::test]
async fn another_order_with_an_id_that_came_again_is_put_aside_and_said() {
    let shop = shop("other_order").await;
    let customer = shop.customer("10").await;
    let orders = client(&shop.databases[0]).await;
    let order = shop.order(customer, "7").await;
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
    let before = history_shows(&shop, customer, &[(order, "APPROVED")]).await;
    set_back(&orders, order).await;
    assert_eq!(shop.order(customer, "2").await, order);
    for (service, queue) in
        [(&shop.customers, "customer-service.orders"), (&shop.history, "order-history.orders")]
    {
        let dead = format!("{queue}.dead");
        let buried = eventually(&dead, async || take(&shop.amqp_url, &dead).await).await;
        let reason = header(&buried, "dead-letter-reason").unwrap_or_default();
        assert!(reason.contains("its id came again") && reason.contains("setval"), "{reason}");
        let series = format!("inbox_messages_total{{outcome=\"dead\",queue=\"{queue}\"}}");
        eventually("the metric counts it", async || {
            (service.metric(&series).await >= Some(1.0)).then_some(())
        })
        .await;
    }
    assert_eq!(shop.state_of(order).await, ("PENDING".to_owned(), Value::Null));
    assert_eq!(history_shows(&shop, customer, &[(order, "APPROVED")]).await, before);

    // The cure from the reason.
    let cure = "SELECT setval(pg_get_serial_sequence('orders', 'id'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)";
    orders.query_one(cure, &[]).await.unwrap();
    let next = shop.order(customer, "3").await;
    assert_eq!(settled(&shop, next).await.0, "APPROVED");
}
