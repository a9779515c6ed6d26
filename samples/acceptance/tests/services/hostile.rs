//! Messages and brokers that a client library cannot handle: one message stops no service.

use crate::{
    broker::{header, take, waiting},
    eventually, history_shows, settled, shop,
};
use testkit::{
    RawPublisher, Service,
    liar::{Liar, Lie, Protocol, START, Then},
    raw_amqp::{
        CORRELATION_ID, HEADERS, MESSAGE_ID, TYPE, array, arrays, frame, properties, short, table, tables,
        text,
    },
    shared_rabbitmq,
};

const QUEUE: &str = "customer-service.orders";
const DEAD: &str = "customer-service.orders.dead";

/// Properties that lapin cannot read, and the reasons.
pub(crate) fn unreadable() -> Vec<(Vec<u8>, &'static str)> {
    let event = |headers: Vec<u8>| {
        let (id, kind) = (short(b"hostile"), short(b"OrderCreated"));
        properties(HEADERS | MESSAGE_ID | TYPE, &[&headers, &id, &kind])
    };
    let deep = "the headers are nested deeper than 32 levels";
    let texts = |message_id: &[u8], kind: &[u8]| {
        let of_a_customer = table(&[(b"tenant", text(b"a"))]);
        properties(HEADERS | MESSAGE_ID | TYPE, &[&of_a_customer, &short(message_id), &short(kind)])
    };
    vec![
        (event(table(&[(b"tenant", text(b"a")), (b"n", arrays(1281))])), deep),
        (event(table(&[(b"n", arrays(25_000)), (b"tenant", text(b"a"))])), deep),
        (event(table(&[(b"tenant", text(b"a")), (b"n", tables(40))])), deep),
        (texts(b"\xff\xfe", b"OrderCreated"), "the property message_id is not UTF-8"),
        (texts(b"hostile", b"Order\xc3"), "the property type is not UTF-8"),
        (
            event(table(&[(b"\xff", text(b"x")), (b"tenant", text(b"a"))])),
            "the name of a header is not UTF-8",
        ),
        (
            properties(HEADERS | CORRELATION_ID, &[&table(&[(b"tenant", text(b"a"))]), &short(b"\x80")]),
            "the property correlation_id is not UTF-8",
        ),
    ]
}

#[tokio::test]
async fn a_message_that_cannot_be_read_goes_to_the_dead_letters_and_the_flow_goes_on() {
    let shop = shop("unreadable").await;
    let customer = shop.customer("10").await;
    let pid = shop.customers.pid();
    let mut anybody = RawPublisher::connect(&shop.amqp_url).await;
    let body = vec![b'x'; 300_000];
    let handled = "inbox_messages_total{outcome=\"dead\",queue=\"customer-service.orders\"}";
    for (properties, why) in unreadable() {
        anybody.publish("", QUEUE.as_bytes(), &properties, &body).await;
        let buried = eventually(why, async || take(&shop.amqp_url, DEAD).await).await;
        let reason = header(&buried, "dead-letter-reason").unwrap();
        assert!(reason.contains(why) && reason.contains("correct its publisher"), "{reason}");
        assert_eq!(header(&buried, "tenant").as_deref(), Some("a"), "what can be read is kept: {reason}");
        assert!(buried.delivery.data == body, "{reason}");
    }
    // A routing key that is not UTF-8 arrives by the header CC, because no binding has such a key.
    let by_the_way = properties(HEADERS, &[&table(&[(b"CC", array(&text(QUEUE.as_bytes())))])]);
    anybody.publish("", b"\xff", &by_the_way, b"{}").await;
    let buried = eventually("the routing key", async || take(&shop.amqp_url, DEAD).await).await;
    let reason = header(&buried, "dead-letter-reason").unwrap();
    assert!(reason.contains("the routing key is not UTF-8"), "{reason}");

    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM:")).unwrap());
    // A message is counted after it lies in the dead letters.
    let each_once = Some(unreadable().len() as f64 + 1.0);
    eventually("each is delivered once", async || {
        (shop.customers.metric(handled).await == each_once).then_some(())
    })
    .await;
    let order = shop.order(customer, "1").await;
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
    history_shows(&shop, customer, &[(order, "APPROVED")]).await;
    assert_eq!((shop.customers.pid(), shop.customers.get_text("/readyz").await.0), (pid, 200));
}

#[tokio::test]
async fn a_redrive_brings_what_cannot_be_read_back_to_the_dead_letters() {
    let shop = shop("unreadable_again").await;
    let mut anybody = RawPublisher::connect(&shop.amqp_url).await;
    // RabbitMQ itself may dead-letter such messages, before anybody has read them.
    let (properties, why) = unreadable().remove(0);
    anybody.publish("", DEAD.as_bytes(), &properties, b"{}").await;
    for _ in 0..2 {
        eventually("it lies there", async || (waiting(&shop.amqp_url, DEAD).await == 1).then_some(())).await;
        let output = shop.customers.command(&["redrive"]).await;
        assert!(output.status.success(), "{output:?}");
    }
    let buried = eventually(why, async || take(&shop.amqp_url, DEAD).await).await;
    let reason = header(&buried, "dead-letter-reason").unwrap();
    assert!(reason.contains(why), "{reason}");
    assert_eq!(header(&buried, "tenant").as_deref(), Some("a"));
}

#[tokio::test]
async fn a_broker_that_ends_every_connection_makes_a_service_not_ready_until_it_stops() {
    const FORCED: &[u8] = b"\x01\x40\x29CONNECTION_FORCED - broker forced closure\0\0\0\0";
    const CONSUME_OK: &[u8] = &[0, 60, 0, 21];
    const DELIVER: &[u8] = &[0, 60, 0, 60];
    let mut shop = shop("liar").await;
    let customer = shop.customer("10").await;
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
    let rabbitmq = shared_rabbitmq().await;
    let liar = Liar::before(rabbitmq.port(), Protocol::Amqp).await;
    let through = shop.amqp_url.replace(&rabbitmq.port().to_string(), &liar.port.to_string());
    let mut service = Service::start("customer-service", &shop.databases[1], &through).await;
    let method =
        |channel, numbers: [u8; 4], arguments: &[u8]| frame(1, channel, &[&numbers[..], arguments].concat());
    let start = [&[0, 9][..], &table(&[(b"n", arrays(25_000))]), &[0; 8]].concat();
    // The first case is no lost connection, because none was open.
    for (in_place_of, then, expected, is_loss) in [
        (START, Then::Say(method(0, [0, 10, 0, 10], &start)), "nested deeper than 32 levels", false),
        // A stopping node's close is none, either.
        (CONSUME_OK, Then::Say(method(0, [0, 10, 0, 50], FORCED)), "320 CONNECTION_FORCED", false),
        (CONSUME_OK, Then::Say(method(1, [0, 20, 0, 20], &[1])), "no broker sends method 20.20", true),
        (DELIVER, Then::Stop, "is not consumed", true),
    ] {
        liar.tell(Some(Lie { in_place_of, then }));
        let order = shop.order(customer, "1").await;
        eventually(expected, async || (liar.told() >= 3 && service.log().contains(expected)).then_some(()))
            .await;
        if is_loss {
            let reason = eventually(expected, async || {
                let (status, answer) = service.get_text("/readyz").await;
                (status == 503).then_some(answer)
            })
            .await;
            assert!(reason.contains(QUEUE) && reason.contains("times in a row"), "{reason}");
        } else {
            assert_eq!(service.get_text("/readyz").await.0, 200, "orders can be taken");
        }
        liar.tell(None);
        assert_eq!(settled(&shop, order).await.0, "APPROVED");
        eventually("it is ready", async || (service.get_text("/readyz").await.0 == 200).then_some(())).await;
    }
    assert!(service.sigterm(crate::PATIENCE).await.success());
}
