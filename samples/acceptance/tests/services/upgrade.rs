//! Upgrade of a shop of version 0.1.0, with its queues and tables.

use lapin::types::AMQPValue;
use tokio_postgres::{Client, NoTls};

use crate::{broker::declare, eventually, history_shows, settled};
use testkit::{Service, shared_postgres, shared_rabbitmq, unique};

/// The inbox of version 0.1.0.
const INBOX: &str = "CREATE TABLE inbox (consumer text NOT NULL, message_id text NOT NULL, \
                     received_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (consumer, message_id))";

#[tokio::test]
async fn queues_of_version_0_1_0_are_consumed_as_they_are() {
    let (postgres, rabbitmq) = (shared_postgres().await, shared_rabbitmq().await);
    for (program, queues) in [
        ("order-service", vec!["order-service.customers"]),
        ("customer-service", vec!["customer-service.orders"]),
        ("order-history", vec!["order-history.orders", "order-history.customers"]),
    ] {
        let name = unique("old_queues");
        let (database, amqp) = (postgres.create_database(&name).await, rabbitmq.create_vhost(&name).await);
        let text = |text: &str| AMQPValue::LongString(text.into());
        for queue in &queues {
            let dead = format!("{queue}.dead");
            let quorum = ("x-queue-type", text("quorum"));
            declare(&amqp, &dead, std::slice::from_ref(&quorum)).await;
            let arguments = [
                quorum,
                ("x-dead-letter-exchange", text("")),
                ("x-dead-letter-routing-key", text(&dead)),
                ("x-single-active-consumer", AMQPValue::Boolean(true)),
            ];
            declare(&amqp, queue, &arguments).await;
        }
        let mut service = Service::start(program, &database, &amqp).await;
        for queue in queues {
            let series = format!("inbox_connected{{queue=\"{queue}\"}}");
            eventually(&format!("{queue} is consumed"), async || {
                service.metric(&series).await.filter(|consuming| *consuming == 1.0)
            })
            .await;
        }
        assert!(!service.log().contains("is not consumed"), "{}", service.log());
        assert!(service.sigterm(crate::PATIENCE).await.success());
    }
}

#[tokio::test]
async fn an_inbox_of_version_0_1_0_gets_its_new_key_and_remembers_what_was_handled() {
    let mut shop = crate::shop("old_inbox").await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "4").await;
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
    let client = client(&shop.databases[1]).await;
    let id: String = client.query_one("SELECT message_id FROM inbox", &[]).await.unwrap().get(0);
    client.batch_execute(&format!("DROP TABLE inbox; {INBOX}")).await.unwrap();
    let old = "INSERT INTO inbox (consumer, message_id) VALUES ('customer-service.orders', $1)";
    client.execute(old, &[&id]).await.unwrap();
    // Handling the message again would create this again.
    client.batch_execute("DELETE FROM credit; UPDATE customers SET reserved = 0").await.unwrap();
    shop.customers.start_again();
    shop.customers.wait_ready(crate::PATIENCE).await;
    let key = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'inbox_pkey'::regclass";
    let key: String = client.query_one(key, &[]).await.unwrap().get(0);
    assert_eq!(key, "consumer source message_id replay");

    let copy = lapin::BasicProperties::default()
        .with_message_id(id.as_str().into())
        .with_type("OrderCreated".into())
        .with_headers(crate::broker::text_header("outbox-source", "orders"));
    crate::broker::publish_as(&shop.amqp_url, "customer-service.orders", copy, b"{}").await;
    let series = "inbox_messages_total{outcome=\"duplicate\",queue=\"customer-service.orders\"}";
    eventually("the copy is recognised", async || shop.customers.metric(series).await).await;
    let next = shop.order(customer, "10").await;
    assert_eq!(settled(&shop, next).await.0, "APPROVED", "and what is new is handled");
}

#[tokio::test]
async fn an_outbox_of_version_0_1_0_gets_its_channels_and_its_retained_rows_can_be_replayed() {
    let mut shop = crate::shop("old_outbox").await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "4").await;
    history_shows(&shop, customer, &[(order, "APPROVED")]).await;
    let [orders, customers, history] = &shop.databases;
    let (orders, customers, history) = (client(orders).await, client(customers).await, client(history).await);
    assert!(shop.orders.sigterm(crate::PATIENCE).await.success());
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
    // The tables of version 0.1.0.
    for database in [&orders, &customers] {
        database.batch_execute("ALTER TABLE outbox DROP COLUMN channel").await.unwrap();
    }
    let old = "DROP TABLE saga_step, saga; DROP INDEX orders_of_customer; DELETE FROM schema_version WHERE version > 1";
    orders.batch_execute(old).await.unwrap();
    shop.orders.set("SAGA", "orchestration");
    shop.orders.start_again();
    shop.customers.start_again();
    shop.orders.wait_ready(crate::PATIENCE).await;
    shop.customers.wait_ready(crate::PATIENCE).await;
    for (database, channel) in [(&orders, "Order.events"), (&customers, "Customer.events")] {
        let channels = "SELECT string_agg(DISTINCT channel, ' ') FROM outbox";
        let channels: String = database.query_one(channels, &[]).await.unwrap().get(0);
        assert_eq!(channels, channel);
    }
    let next = shop.order(customer, "6").await;
    history_shows(&shop, customer, &[(order, "APPROVED"), (next, "APPROVED")]).await;
    history.execute("DELETE FROM orders WHERE id = $1", &[&order]).await.unwrap();
    let output = shop.relay.command(&["replay", "--source", "orders"]).await;
    assert!(output.status.success(), "{output:?}");
    history_shows(&shop, customer, &[(order, "APPROVED"), (next, "APPROVED")]).await;
}

/// A role's `search_path` put the tables of version 0.1.0 into another schema. New ones would have an empty inbox.
#[tokio::test]
async fn tables_that_a_search_path_put_elsewhere_are_not_made_anew_beside_them() {
    let mut shop = crate::shop("elsewhere").await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "4").await;
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
    let client = client(&shop.databases[1]).await;
    let tables = "SELECT string_agg(relname::text, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' \
                  AND relnamespace = 'public'::regnamespace AND relname !~ '^outboxd_'";
    let tables: String = client.query_one(tables, &[]).await.unwrap().get(0);
    let moved = |from: &str, to: &str| {
        let one = |table| format!("ALTER TABLE {from}.{table} SET SCHEMA {to};");
        tables.split(' ').map(one).collect::<Vec<_>>().join(" ")
    };
    client.batch_execute(&format!("CREATE SCHEMA shop; {}", moved("public", "shop"))).await.unwrap();
    shop.customers.start_again();
    eventually("the service says so", async || {
        shop.customers.log().contains("the service's tables are in schema shop").then_some(())
    })
    .await;
    let back = moved("shop", "public");
    assert!(shop.customers.log().contains(&back), "{back} {}", shop.customers.log());
    client.batch_execute(&format!("BEGIN; {back} COMMIT;")).await.unwrap();
    shop.customers.wait_ready(crate::PATIENCE).await;
    let handled = client.query("SELECT FROM public.inbox", &[]).await.unwrap();
    assert_eq!(handled.len(), 1, "nothing is forgotten");
}

async fn client(database: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
