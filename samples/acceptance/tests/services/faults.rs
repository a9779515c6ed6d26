//! Services, relay, databases and broker are killed; the books balance in the end.

use std::time::Duration;

use tokio_postgres::NoTls;

use crate::{eventually, history_shows, settled, shop_of};
use testkit::{Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, Shop, http, shared_rabbitmq};

in_both_styles!(
    without_the_customer_service_orders_stay_pending_and_cannot_be_cancelled,
    whichever_process_is_killed_the_saga_ends_and_the_books_balance,
    databases_and_broker_may_end_under_everybody,
    an_answer_that_overtakes_the_order_it_is_about_waits_for_it,
);

/// Checks the books: reserved credit equals approved totals, and the view equals the orders.
pub(crate) async fn balanced(shop: &Shop) {
    let table = async |database: &str, query: &str| -> Vec<String> {
        let (client, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let [orders, customers, history] = &shop.databases;
    let all_orders = "SELECT format('%s %s %s %s %s', id, customer_id, trim_scale(total), state, rejection_reason) \
                      FROM orders ORDER BY id";
    let booked = table(orders, all_orders).await;
    assert!(!booked.iter().any(|order| order.contains("PENDING")), "{booked:?}");
    eventually("the view equals the orders", async || {
        (table(history, all_orders).await == booked).then_some(())
    })
    .await;
    let approved = "SELECT format('%s %s', customer_id, trim_scale(sum(total))) FROM orders \
                    WHERE state = 'APPROVED' GROUP BY customer_id ORDER BY customer_id";
    let reserved =
        "SELECT format('%s %s', id, trim_scale(reserved)) FROM customers WHERE reserved > 0 ORDER BY id";
    let approved = table(orders, approved).await;
    eventually("reserved credit equals approved totals", async || {
        (table(customers, reserved).await == approved).then_some(())
    })
    .await;
    let exceeded = table(customers, "SELECT id::text FROM customers WHERE reserved > credit_limit").await;
    assert!(exceeded.is_empty(), "{exceeded:?}");
}

async fn without_the_customer_service_orders_stay_pending_and_cannot_be_cancelled(style: &str) {
    let mut shop = shop_of(style, "pending").await;
    let customer = shop.customer("10").await;
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
    let order = shop.order(customer, "10").await;
    history_shows(&shop, customer, &[(order, "PENDING")]).await;
    let (status, answer) =
        shop.orders.post(&format!("/orders/{order}/cancel"), &serde_json::Value::Null).await;
    assert_eq!(status, 409);
    assert!(answer["error"].as_str().unwrap().contains("PENDING"), "{answer}");
    assert_eq!(shop.state_of(order).await.0, "PENDING");
    shop.customers.start_again();
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
    history_shows(&shop, customer, &[(order, "APPROVED")]).await;
}

async fn whichever_process_is_killed_the_saga_ends_and_the_books_balance(style: &str) {
    let mut shop = shop_of(style, "kill_each").await;
    let customers = [shop.customer("25").await, shop.customer("1000.5").await];
    let mut ids = Vec::new();
    for victim in 0..8 {
        for number in 0..20 {
            ids.push(shop.order(customers[number % 2], "1.25").await);
        }
        // The last order is in progress somewhere.
        match victim % 4 {
            0 => {
                shop.relay.kill9().await;
                shop.relay.start_again();
            }
            1 => {
                shop.customers.kill9().await;
                shop.customers.start_again();
            }
            2 => {
                shop.orders.kill9().await;
                shop.orders.start_again();
                shop.orders.wait_ready(crate::PATIENCE).await;
            }
            _ => {
                shop.history.kill9().await;
                shop.history.start_again();
            }
        }
        let (status, _) = match settled(&shop, ids[ids.len() / 2]).await.0.as_str() {
            "APPROVED" => {
                shop.orders
                    .post(&format!("/orders/{}/cancel", ids[ids.len() / 2]), &serde_json::Value::Null)
                    .await
            }
            _ => (200, serde_json::Value::Null),
        };
        assert_eq!(status, 200);
    }
    for id in &ids {
        settled(&shop, *id).await;
    }
    shop.customers.wait_ready(crate::PATIENCE).await;
    balanced(&shop).await;
}

async fn databases_and_broker_may_end_under_everybody(style: &str) {
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let rabbitmq = RabbitMq::start(RabbitMqOptions::default()).await;
    let shop = Shop::open_with(style, "nodes_end", &postgres, &rabbitmq).await;
    let customer = shop.customer("30").await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(shop.order(customer, "1").await);
    }
    // RabbitMQ 3.10 writes a new quorum queue's registration to disk half a second late (ra_directory). Killed
    // before, it returns without the queue's process, and every use of the queue fails with 541, which is not this
    // test's subject.
    tokio::time::sleep(Duration::from_secs(2)).await;
    rabbitmq.kill9().await;
    for _ in 0..20 {
        ids.push(shop.order(customer, "1").await);
    }
    rabbitmq.start_again().await;
    settled(&shop, ids[25]).await;
    postgres.kill9().await;
    let body = format!(r#"{{"customerId": {customer}, "orderTotal": {{"amount": 1}}}}"#);
    let (status, answer) = shop.orders.ask(hyper::Method::POST, "/orders", body).await;
    assert_eq!(status, 503, "{answer}");
    postgres.start_again().await;
    eventually("the order service has its database again", async || {
        (shop.orders.get("/orders").await.0 == 200).then_some(())
    })
    .await;
    ids.push(shop.order(customer, "1").await);
    let mut approved = 0;
    for id in &ids {
        approved += usize::from(settled(&shop, *id).await.0 == "APPROVED");
    }
    assert_eq!(approved, 30);
    balanced(&shop).await;
}

#[tokio::test]
async fn a_message_waits_in_place_while_the_database_refuses_and_the_order_is_kept() {
    let shop = Shop::open("in_place", testkit::shared_postgres().await, shared_rabbitmq().await).await;
    let customer = shop.customer("10").await;
    let (client, connection) = tokio_postgres::connect(&shop.databases[1], NoTls).await.unwrap();
    tokio::spawn(connection);
    // A failed migration: the table is missing.
    client.batch_execute("ALTER TABLE credit RENAME TO elsewhere").await.unwrap();
    let first = shop.order(customer, "10").await;
    let second = shop.order(customer, "10").await;
    let series = "inbox_retries_total{queue=\"customer-service.orders\"}";
    eventually("it is tried again", async || {
        (shop.customers.metric(series).await >= Some(3.0)).then_some(())
    })
    .await;
    assert_eq!(shop.state_of(second).await.0, "PENDING");
    client.batch_execute("ALTER TABLE elsewhere RENAME TO credit").await.unwrap();
    assert_eq!(settled(&shop, first).await.0, "APPROVED", "the first came first");
    assert_eq!(settled(&shop, second).await.0, "REJECTED");
    let dead = "inbox_messages_total{outcome=\"dead\",queue=\"customer-service.orders\"}";
    assert_eq!(shop.customers.metric(dead).await, None, "nothing was put aside");
}

/// PostgreSQL decodes a transaction before it shows its rows to others. A commit that waits for a synchronous standby
/// extends that moment, which a busy machine makes visible, too.
async fn an_answer_that_overtakes_the_order_it_is_about_waits_for_it(style: &str) {
    let local = vec![("synchronous_commit".to_owned(), "local".to_owned())];
    let postgres = Postgres::start(PostgresOptions { settings: local, ..Default::default() }).await;
    let mut shop = Shop::open_with(style, "overtaken", &postgres, shared_rabbitmq().await).await;
    let customer = shop.customer("10").await;
    let admin = postgres.client("postgres").await;
    let orders = shop.databases[0].rsplit('/').next().unwrap();
    let waits_for_standby = format!("ALTER DATABASE {orders} SET synchronous_commit = 'on'");
    admin.batch_execute(&waits_for_standby).await.unwrap();
    assert!(shop.orders.sigterm(crate::PATIENCE).await.success());
    shop.orders.start_again();
    shop.orders.wait_ready(crate::PATIENCE).await;

    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    postgres.commits_wait(orders).await;
    let port = shop.orders.port();
    let body = format!(r#"{{"customerId": {customer}, "orderTotal": {{"amount": 10}}}}"#);
    let placing =
        tokio::spawn(async move { http::request(hyper::Method::POST, port, "/orders", &[], body).await });
    let looks = format!(
        "SELECT FROM pg_stat_activity WHERE datname = '{orders}' AND wait_event = 'transactionid' AND query LIKE 'INSERT%'"
    );
    eventually("the answer waits for its order", async || admin.query_opt(&looks, &[]).await.unwrap()).await;
    assert!(!placing.is_finished(), "the order is being committed");

    admin.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let (status, answer) = placing.await.unwrap().unwrap();
    assert_eq!(status.as_u16(), 201, "{answer}");
    let order = serde_json::from_str::<serde_json::Value>(&answer).unwrap()["orderId"].as_i64().unwrap();
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
}
