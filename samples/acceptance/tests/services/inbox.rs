//! Consumers with invalid messages and copies.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable},
};
use serde_json::json;

use crate::{
    broker::{ByHand, header, publish, publish_as, take},
    eventually, history_shows, settled, shared_shop, shop,
};
use testkit::{Shop, shared_rabbitmq, unique};

const QUEUES: [&str; 4] =
    ["customer-service.orders", "order-service.customers", "order-history.orders", "order-history.customers"];

/// Checks that regular orders still flow.
async fn an_order_still_goes_through(shop: &Shop) {
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "10").await;
    assert_eq!(settled(shop, order).await.0, "APPROVED");
    history_shows(shop, customer, &[(order, "APPROVED")]).await;
}

#[tokio::test]
async fn what_nobody_understands_is_put_aside_with_its_reason_and_the_flow_goes_on() {
    let shop = shop("dead_letters").await;
    let no_order = json!({ "customerId": 1, "orderId": 4711 }).to_string();
    let nul = r#"{"customerId": 1, "name": "A\u0000da", "creditLimit": {"amount": 1}}"#;
    for queue in QUEUES {
        let own_event = match queue {
            "order-service.customers" => "CustomerCreditReserved",
            "order-history.customers" => "CustomerCreated",
            _ => "OrderCreated",
        };
        let mut cases = vec![
            (
                ByHand { id: Some("a"), event_type: Some("OrderEaten"), body: b"{}" },
                "unknown event type 'OrderEaten'",
            ),
            (ByHand { id: Some("b"), event_type: Some(own_event), body: b"{" }, "EOF while parsing"),
            (ByHand { id: Some("c"), event_type: Some(own_event), body: b"" }, "EOF while parsing"),
            (ByHand { id: Some("d"), event_type: Some(own_event), body: b"[1,2]" }, "not a valid"),
            (ByHand { id: Some("e"), event_type: Some(own_event), body: b"\xff\xfe" }, "not a valid"),
            (ByHand { id: None, event_type: Some(own_event), body: b"{}" }, "no message_id"),
            (ByHand { id: Some("f"), event_type: None, body: b"{}" }, "no type"),
        ];
        match queue {
            "order-service.customers" => cases.push((
                ByHand { id: Some("g"), event_type: Some(own_event), body: no_order.as_bytes() },
                "there is no order 4711",
            )),
            "order-history.customers" => cases.push((
                ByHand { id: Some("h"), event_type: Some(own_event), body: nul.as_bytes() },
                "name has control characters",
            )),
            _ => {}
        }
        for (message, reason) in cases {
            publish(&shop.amqp_url, queue, message.clone()).await;
            let dead = format!("{queue}.dead");
            let buried =
                eventually(&format!("{message:?} is in {dead}"), async || take(&shop.amqp_url, &dead).await)
                    .await;
            let why = header(&buried, "dead-letter-reason").unwrap_or_default();
            assert!(why.contains(reason), "{queue}: {message:?}: {why}");
            let properties = &buried.delivery.properties;
            assert_eq!(buried.delivery.data, message.body);
            assert_eq!(properties.message_id().as_ref().map(|id| id.as_str()), message.id);
            assert_eq!(properties.kind().as_ref().map(|kind| kind.as_str()), message.event_type);
            assert_eq!(header(&buried, "by").as_deref(), Some("hand"));
        }
    }
    an_order_still_goes_through(&shop).await;
    for (service, queue) in
        [(&shop.customers, QUEUES[0]), (&shop.orders, QUEUES[1]), (&shop.history, QUEUES[2])]
    {
        let series = format!("inbox_messages_total{{outcome=\"dead\",queue=\"{queue}\"}}");
        assert!(service.metric(&series).await >= Some(7.0), "{series}");
    }
}

#[tokio::test]
async fn a_copy_has_no_effect_whether_or_not_its_id_tells() {
    let shop = shared_shop().await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "4").await;
    history_shows(shop, customer, &[(order, "APPROVED")]).await;
    let body = json!({ "orderId": order, "orderDetails": { "customerId": customer, "orderTotal": { "amount": 4 } } });
    let body = body.to_string();
    for queue in ["customer-service.orders", "order-history.orders"] {
        for id in [format!("copy-of-{order}"), format!("copy-of-{order}"), format!("another-{order}")] {
            let copy = ByHand { id: Some(&id), event_type: Some("OrderCreated"), body: body.as_bytes() };
            publish(&shop.amqp_url, queue, copy).await;
        }
    }
    let decision = json!({ "customerId": customer, "orderId": order }).to_string();
    let late = ByHand {
        id: Some(&format!("late-{order}")),
        event_type: Some("CustomerCreditReservationFailed"),
        body: decision.as_bytes(),
    };
    publish(&shop.amqp_url, "order-service.customers", late).await;

    // This order follows the copies in the same queues, so they are handled before it.
    let next = shop.order(customer, "6").await;
    assert_eq!(settled(shop, next).await.0, "APPROVED", "the copies have reserved nothing");
    history_shows(shop, customer, &[(order, "APPROVED"), (next, "APPROVED")]).await;
    assert_eq!(shop.state_of(order).await.0, "APPROVED", "a settled order stays as it is");
    let series = "inbox_messages_total{outcome=\"duplicate\",queue=\"order-history.orders\"}";
    assert!(shop.history.metric(series).await >= Some(1.0));
}

#[tokio::test]
async fn a_message_is_put_aside_whatever_its_properties_say_of_its_way() {
    let shop = shop("poison").await;
    let rabbitmq = shared_rabbitmq().await;
    let queue = "order-service.customers";
    let stranger = unique("stranger");
    rabbitmq.create_user(&stranger, "pass").await;
    let vhost = shop.amqp_url.rsplit('/').next().unwrap().replace("%5F", "_");
    rabbitmq.allow(&stranger, &vhost, [".*"; 3]).await;
    let as_stranger = shop.amqp_url.replace("guest:guest@", &format!("{stranger}:pass@"));
    let mut copies = FieldTable::default();
    let list = FieldArray::from(vec![AMQPValue::LongString("nowhere".into())]);
    copies.insert("CC".into(), AMQPValue::FieldArray(list));
    let mut large = FieldTable::default();
    for number in 0..30 {
        large.insert(format!("h{number}").as_str().into(), AMQPValue::LongString("x".repeat(1000).into()));
    }
    let base = || BasicProperties::default().with_message_id("poison".into()).with_type("Nonsense".into());
    for (what, properties) in [
        ("of another user", base().with_user_id(stranger.as_str().into())),
        ("with copies", base().with_headers(copies)),
        ("with large headers", base().with_headers(large)),
        ("that ends soon", base().with_expiration("600000".into())),
    ] {
        publish_as(&as_stranger, queue, properties, b"{}").await;
        let dead = format!("{queue}.dead");
        let what = format!("a message {what} is put aside");
        let buried = eventually(&what, async || take(&shop.amqp_url, &dead).await).await;
        let properties = buried.delivery.properties;
        assert_eq!(properties.message_id().as_ref().map(|id| id.as_str()), Some("poison"), "{what}");
        assert_eq!(properties.expiration(), &None, "{what}");
    }
    an_order_still_goes_through(&shop).await;
}

#[tokio::test]
async fn an_order_that_is_cancelled_twice_frees_its_credit_once() {
    let shop = shared_shop().await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "6").await;
    assert_eq!(settled(shop, order).await.0, "APPROVED");
    let details = json!({ "customerId": customer, "orderTotal": { "amount": 6 } });
    let body = json!({ "orderId": order, "orderDetails": details }).to_string();
    for id in ["first", "second"] {
        let id = format!("{id}-{order}");
        let cancelled = ByHand { id: Some(&id), event_type: Some("OrderCancelled"), body: body.as_bytes() };
        publish(&shop.amqp_url, "customer-service.orders", cancelled).await;
    }
    // 10 is available now, not 16.
    let whole = shop.order(customer, "10").await;
    assert_eq!(settled(shop, whole).await.0, "APPROVED");
    let more = shop.order(customer, "0.01").await;
    assert_eq!(settled(shop, more).await.0, "REJECTED");
}

#[tokio::test]
async fn the_database_itself_refuses_more_than_the_limit() {
    let shop = shared_shop().await;
    let customer = shop.customer("10").await;
    let (client, connection) =
        tokio_postgres::connect(&shop.databases[1], tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let update = "UPDATE customers SET reserved = reserved + 6 WHERE id = $1";
    client.execute(update, &[&customer]).await.unwrap();
    let error = client.execute(update, &[&customer]).await.unwrap_err();
    assert_eq!(error.as_db_error().and_then(|error| error.constraint()), Some("credit_is_never_exceeded"));
}

#[tokio::test]
async fn an_end_that_comes_before_its_beginning_reserves_nothing() {
    let shop = shared_shop().await;
    let customer = shop.customer("10").await;
    let order = i64::MAX - customer;
    let body = json!({ "orderId": order, "orderDetails": { "customerId": customer, "orderTotal": { "amount": 10 } } });
    let body = body.to_string();
    for event_type in ["OrderCancelled", "OrderCreated"] {
        let id = format!("{event_type}-{order}");
        let message = ByHand { id: Some(&id), event_type: Some(event_type), body: body.as_bytes() };
        publish(&shop.amqp_url, "customer-service.orders", message).await;
    }
    let next = shop.order(customer, "10").await;
    assert_eq!(settled(shop, next).await.0, "APPROVED");
}

#[tokio::test]
async fn an_event_that_cannot_be_true_is_put_aside_and_changes_nothing() {
    let shop = shop("impossible").await;
    let customer = shop.customer("10").await;
    history_shows(&shop, customer, &[]).await;
    let order = |event_type: &'static str, amount: &str, reason: &str| {
        let body = format!(
            r#"{{"orderId": 77, "orderDetails": {{"customerId": {customer}, "orderTotal": {{"amount": {amount}}}}}{reason}}}"#
        );
        (event_type, body)
    };
    let known = |name: &str, amount: &str| {
        let body =
            format!(r#"{{"customerId": 78, "name": "{name}", "creditLimit": {{"amount": {amount}}}}}"#);
        ("CustomerCreated", body)
    };
    let why = r#", "rejectionReason": "UNKNOWN_CUSTOMER""#;
    let [customers, orders, view] = [QUEUES[3], QUEUES[0], QUEUES[2]];
    for (queue, (event_type, body), reason) in [
        (view, order("OrderCreated", "-5", ""), "amount must be more than zero"),
        (view, order("OrderApproved", "0", ""), "amount must be more than zero"),
        (view, order("OrderCreated", "1000000000001", ""), "amount is more than 1000000000000"),
        (view, order("OrderRejected", "5", ""), "without a rejectionReason"),
        (view, order("OrderApproved", "5", why), "with a rejectionReason"),
        (orders, order("OrderCreated", "-5", ""), "amount must be more than zero"),
        (orders, order("OrderCancelled", "-5", ""), "amount must be more than zero"),
        (customers, known("Ada", "-1"), "amount must not be negative"),
        (customers, known("Ada", "1e13"), "amount is more than 1000000000000"),
        (customers, known(" ", "1"), "name is empty"),
        (customers, known(&"a".repeat(201), "1"), "name is longer than 200 characters"),
    ] {
        let id = unique("impossible");
        let message = ByHand { id: Some(&id), event_type: Some(event_type), body: body.as_bytes() };
        publish(&shop.amqp_url, queue, message).await;
        let dead = format!("{queue}.dead");
        let what = format!("{body} is in {dead}");
        let buried = eventually(&what, async || take(&shop.amqp_url, &dead).await).await;
        let why = header(&buried, "dead-letter-reason").unwrap_or_default();
        assert!(why.contains(reason), "{body}: {why}");
    }
    an_order_still_goes_through(&shop).await;
    history_shows(&shop, customer, &[]).await;
    assert_eq!(shop.history.get("/customers/78/orderhistory").await.0, 404);
}
