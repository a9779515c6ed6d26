//! Retention of inbox rows.

use tokio_postgres::{Client, NoTls};

use crate::{eventually, settled, shop};

async fn ids(client: &Client) -> Vec<String> {
    let select = "SELECT message_id FROM inbox WHERE source = 'test' ORDER BY message_id";
    client.query(select, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn rows_end_with_their_time_in_batches_and_not_before_the_queue_was_seen_empty_and_then_beside_a_busy_one()
 {
    let mut shop = shop("retention").await;
    let customer = shop.customer("100").await;
    let (mut client, connection) = tokio_postgres::connect(&shop.databases[1], NoTls).await.unwrap();
    tokio::spawn(connection);
    let (mut holder, connection) = tokio_postgres::connect(&shop.databases[1], NoTls).await.unwrap();
    tokio::spawn(connection);
    // More than two batches are a year old, and one row is almost old enough.
    let rows = "INSERT INTO inbox (consumer, source, message_id, received_at) \
                SELECT 'customer-service.orders', 'test', 'old-' || n, now() - interval '1 year' FROM generate_series(1, 2500) n \
                UNION ALL SELECT 'customer-service.orders', 'test', 'young', now() - interval '6 days 23 hours' \
                UNION ALL SELECT 'somebody else', 'test', 'foreign', now() - interval '1 year'";

    // The service has not seen its queue empty, so a copy of any message may be in it.
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
    let lock = holder.transaction().await.unwrap();
    lock.execute("SELECT FROM customers WHERE id = $1 FOR UPDATE", &[&customer]).await.unwrap();
    let order = shop.order(customer, "1").await;
    eventually("the message waits", async || {
        (crate::broker::waiting(&shop.amqp_url, "customer-service.orders").await == 1).then_some(())
    })
    .await;
    shop.customers.start_again();
    let waits =
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("a message is in hand", async || client.query_opt(waits, &[]).await.unwrap()).await;
    client.execute(rows, &[]).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    assert_eq!(ids(&client).await.len(), 2502);

    // A locked row delays nobody.
    let held = client.transaction().await.unwrap();
    held.execute("SELECT FROM inbox WHERE message_id = 'old-1' FOR UPDATE", &[]).await.unwrap();
    lock.rollback().await.unwrap();
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
    let left = eventually("the old rows are gone", async || {
        let select = "SELECT message_id FROM inbox WHERE source = 'test' ORDER BY message_id";
        let left: Vec<String> = held.query(select, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        (left.len() <= 3).then_some(left)
    })
    .await;
    assert_eq!(left, ["foreign", "old-1", "young"]);
    held.rollback().await.unwrap();
    eventually("the last old one, too", async || (ids(&client).await == ["foreign", "young"]).then_some(()))
        .await;
    let series = "inbox_pruned_rows_total{queue=\"customer-service.orders\"}";
    assert_eq!(shop.customers.metric(series).await, Some(2500.0));

    // The queue has held no copy of an old row since, however busy the service is: a message is in hand all the time.
    let lock = holder.transaction().await.unwrap();
    lock.execute("SELECT FROM customers WHERE id = $1 FOR UPDATE", &[&customer]).await.unwrap();
    shop.order(customer, "1").await;
    eventually("a message is in hand", async || client.query_opt(waits, &[]).await.unwrap()).await;
    client
        .execute("UPDATE inbox SET received_at = now() - interval '1 year' WHERE message_id = 'young'", &[])
        .await
        .unwrap();
    eventually("rows end meanwhile", async || (ids(&client).await == ["foreign"]).then_some(())).await;
    assert!(client.query_opt(waits, &[]).await.unwrap().is_some(), "the message is still in hand");
    lock.rollback().await.unwrap();
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
}
