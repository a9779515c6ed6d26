//! RabbitMQ's delivery count, dead letters, and their way back.

use hyper::Method;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable},
};
use serde_json::json;
use tokio_postgres::{Client, NoTls};

use crate::{
    broker::{header, large_headers, publish_as, take, waiting},
    eventually, history_shows, settled, shop,
};
use testkit::{RabbitMq, RabbitMqOptions, Service, Shop, shared_postgres, shared_rabbitmq};

const QUEUE: &str = "customer-service.orders";
const DEAD: &str = "customer-service.orders.dead";
const CONSUMING: &str = "inbox_connected{queue=\"customer-service.orders\"}";
const DEAD_MESSAGES: &str = "inbox_dead_messages{queue=\"customer-service.orders\"}";
const DEAD_LETTERED: &str = "inbox_dead_lettered_total{queue=\"customer-service.orders\"}";

async fn client(database: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Sets the queue's delivery limit by a policy.
async fn limit_deliveries(rabbitmq: &RabbitMq, amqp_url: &str, limit: u32) {
    let vhost = amqp_url.rsplit('/').next().unwrap();
    let policy = json!({
        "pattern": format!("^{QUEUE}$"), "definition": { "delivery-limit": limit }, "apply-to": "queues"
    });
    rabbitmq.api(Method::PUT, &format!("/api/policies/{vhost}/limit"), policy).await;
}

/// Returns an order's event for direct publishing: its properties and body.
fn order_created(order: i64, customer: i64) -> (BasicProperties, Vec<u8>) {
    let details = json!({ "customerId": customer, "orderTotal": { "amount": 1 } });
    let body = json!({ "orderId": order, "orderDetails": details }).to_string();
    let id = format!("order-{order}");
    let properties =
        BasicProperties::default().with_message_id(id.as_str().into()).with_type("OrderCreated".into());
    (properties, body.into_bytes())
}

async fn consuming(service: &Service) {
    eventually("it consumes", async || {
        service.metric_if_up(CONSUMING).await.filter(|consuming| *consuming == 1.0)
    })
    .await;
}

#[tokio::test]
async fn a_crash_counts_against_the_message_in_hand_and_not_against_those_behind_it() {
    let mut shop = shop("limit").await;
    limit_deliveries(shared_rabbitmq().await, &shop.amqp_url, 20).await;
    let customer = shop.customer("1000").await;
    let first = shop.order(customer, "1").await;
    assert_eq!(settled(&shop, first).await.0, "APPROVED");
    // A reservation waits while another session holds the customer's row.
    let mut holder = client(&shop.databases[1]).await;
    let lock = holder.transaction().await.unwrap();
    lock.execute("SELECT FROM customers WHERE id = $1 FOR UPDATE", &[&customer]).await.unwrap();
    // pg_stat_activity does not change within a transaction.
    let look = client(&shop.databases[1]).await;
    let mut orders = Vec::new();
    for _ in 0..30 {
        orders.push(shop.order(customer, "1").await);
    }
    // A killed service's statement waits, too.
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    for life in 0..24 {
        eventually("a message is in hand", async || {
            let blocked: i64 = look.query_one(blocked, &[]).await.unwrap().get(0);
            (blocked == life + 1).then_some(())
        })
        .await;
        if life == 0 {
            eventually("the others wait in the queue", async || {
                (waiting(&shop.amqp_url, QUEUE).await == 29).then_some(())
            })
            .await;
        }
        shop.customers.kill9().await;
        shop.customers.start_again();
    }
    lock.rollback().await.unwrap();
    for order in &orders[1..] {
        assert_eq!(settled(&shop, *order).await.0, "APPROVED");
    }
    // The message in hand was delivered more than twenty times, the queue's limit.
    eventually("the gauge shows it", async || {
        shop.customers.metric_if_up(DEAD_MESSAGES).await.filter(|messages| *messages == 1.0)
    })
    .await;
    assert!(
        shop.customers.log().contains("1 messages lie in customer-service.orders.dead and are not handled")
    );
    assert_eq!(shop.state_of(orders[0]).await.0, "PENDING");

    let output = shop.customers.command(&["redrive"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "customer-service.orders: 1 messages put back; 0 left in customer-service.orders.dead\n\
                    customer-service.commands: 0 messages put back; 0 left in customer-service.commands.dead\n";
    assert_eq!(said, expected, "{output:?}");
    assert_eq!(settled(&shop, orders[0]).await.0, "APPROVED");
}

#[tokio::test]
async fn dead_letters_are_counted_and_come_back_in_order_up_to_a_limit_without_what_was_noted_of_their_death()
{
    let shop = shop("redrive").await;
    let customer = shop.customer("3").await;
    consuming(&shop.customers).await;
    eventually("it has looked", async || shop.customers.metric(DEAD_MESSAGES).await).await;
    let mut died = FieldTable::default();
    died.insert("by".into(), AMQPValue::LongString("hand".into()));
    died.insert("dead-letter-reason".into(), AMQPValue::LongString("not now".into()));
    died.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::default()));
    died.insert("x-delivery-count".into(), AMQPValue::LongLongInt(21));
    // Credit for three orders: those that get it show the order.
    let orders: Vec<i64> = (1..=5).map(|number| i64::MAX - 1_000_000 + number).collect();
    for order in &orders {
        let (properties, body) = order_created(*order, customer);
        publish_as(&shop.amqp_url, DEAD, properties.with_headers(died.clone()), &body).await;
    }
    let (nonsense, _) = order_created(0, customer);
    let nonsense = nonsense.with_type("Nonsense".into()).with_headers(died);
    publish_as(&shop.amqp_url, DEAD, nonsense, b"{}").await;
    eventually("they are counted", async || {
        let counted =
            (shop.customers.metric(DEAD_MESSAGES).await, shop.customers.metric(DEAD_LETTERED).await);
        (counted == (Some(6.0), Some(6.0))).then_some(())
    })
    .await;
    assert!(shop.customers.log().contains("came into customer-service.orders.dead"));

    let database = client(&shop.databases[1]).await;
    let states = async || -> Vec<(i64, String)> {
        let select = "SELECT order_id, state FROM credit ORDER BY order_id";
        database.query(select, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let output = shop.customers.command(&["redrive", "--limit", "2"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("2 messages put back; 4 left in"), "{output:?}");
    eventually("the first two are handled", async || (states().await.len() == 2).then_some(())).await;
    let output = shop.customers.command(&["redrive", "--queue", QUEUE]).await;
    assert!(output.status.success(), "{output:?}");
    eventually("all are handled", async || (states().await.len() == 5).then_some(())).await;
    let expected: Vec<(i64, String)> = orders
        .iter()
        .enumerate()
        .map(|(number, order)| (*order, if number < 3 { "RESERVED" } else { "REFUSED" }.to_owned()))
        .collect();
    assert_eq!(states().await, expected, "the first came first");

    let again = eventually("what cannot be handled is back", async || take(&shop.amqp_url, DEAD).await).await;
    assert_eq!(header(&again, "dead-letter-reason").as_deref(), Some("unknown event type 'Nonsense'"));
    assert_eq!(header(&again, "by").as_deref(), Some("hand"));
    let headers = again.delivery.properties.headers().clone().unwrap_or_default();
    assert!(!headers.contains_key("x-death"), "{headers:?}");
    // Dead letters of this instance do not count as others'.
    assert_eq!(shop.customers.metric(DEAD_LETTERED).await, Some(6.0));

    let output = shop.customers.command(&["redrive", "--queue", "order-history.orders"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("customer-service consumes customer-service.orders")
    );
}

#[tokio::test]
async fn headers_that_fill_a_publishers_frame_stop_nobody() {
    let shop = shop("headers").await;
    let customer = shop.customer("10").await;
    let mut trace = FieldTable::default();
    trace.insert("x-exception-stacktrace".into(), AMQPValue::LongString("x".repeat(40 << 10).into()));
    // The last one fills 128 KiB except for its frame.
    for (number, headers) in [large_headers(60_000), trace, large_headers(104_000)].into_iter().enumerate() {
        let order = i64::MAX - 1_000 + i64::try_from(number).unwrap();
        let (properties, body) = order_created(order, customer);
        publish_as(&shop.amqp_url, QUEUE, properties.clone().with_headers(headers.clone()), &body).await;
        let nonsense =
            properties.with_message_id("nonsense".into()).with_type("Nonsense".into()).with_headers(headers);
        publish_as(&shop.amqp_url, QUEUE, nonsense, b"{}").await;
        let buried = eventually("it is put aside", async || take(&shop.amqp_url, DEAD).await).await;
        let reason = header(&buried, "dead-letter-reason").unwrap();
        assert!(reason.starts_with("unknown event type"), "{reason}");
        let kept = buried.delivery.properties.headers().as_ref().unwrap().inner().len() > 1;
        assert!(kept || reason.contains("its headers were left out"), "{reason}");
    }
    let handled = "inbox_messages_total{outcome=\"handled\",queue=\"customer-service.orders\"}";
    assert_eq!(shop.customers.metric(handled).await, Some(3.0), "what can be understood is");
    flows(&shop, customer).await;
}

async fn flows(shop: &Shop, customer: i64) {
    let order = shop.order(customer, "1").await;
    assert_eq!(settled(shop, order).await.0, "APPROVED");
    history_shows(shop, customer, &[(order, "APPROVED")]).await;
}

#[tokio::test]
async fn headers_larger_than_a_frame_of_the_service_are_put_aside_and_the_flow_goes_on() {
    let larger_frames = vec!["frame_max = 524288".to_owned()];
    let rabbitmq = RabbitMq::start(RabbitMqOptions { settings: larger_frames, ..Default::default() }).await;
    let shop = Shop::open("large", shared_postgres().await, &rabbitmq).await;
    let customer = shop.customer("10").await;
    let (properties, body) = order_created(i64::MAX, customer);
    let url = format!("{}?frame_max=524288", shop.amqp_url);
    publish_as(&url, QUEUE, properties.with_headers(large_headers(300_000)), &body).await;
    let buried = eventually("it is put aside", async || take(&shop.amqp_url, DEAD).await).await;
    let reason = header(&buried, "dead-letter-reason").unwrap();
    assert!(reason.contains("more than the 131072 of a frame of this connection"), "{reason}");
    assert_eq!(buried.delivery.data, body);
    assert!(buried.delivery.properties.headers().as_ref().unwrap().inner().len() > 100, "{reason}");
    flows(&shop, customer).await;
}
