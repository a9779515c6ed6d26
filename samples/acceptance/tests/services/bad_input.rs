//! Invalid input is refused with a reason and the field, and leaves nothing behind.

use hyper::Method;
use serde_json::Value;

use diagnostics::legible::is_hidden;

use crate::{
    broker::{ByHand, header, publish, take},
    eventually, shared_shop, shop,
};
use testkit::Service;

async fn count(url: &str, table: &str) -> i64 {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

/// Sends each body and compares status and field of the answers.
async fn refused(service: &Service, path: &str, cases: &[(&str, u16, Option<&str>)]) {
    for (body, status, field) in cases {
        let (answered, answer) = service.ask(Method::POST, path, (*body).to_owned()).await;
        let body: String = body.chars().take(100).collect();
        assert_eq!(answered, *status, "{body}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|error| !error.is_empty()), "{body}: {answer}");
        assert_eq!(answer["field"], field.map_or(Value::Null, Value::from), "{body}: {answer}");
        assert_eq!(answer.as_object().map(|answer| answer.len()), Some(2), "{body}: {answer}");
    }
}

#[tokio::test]
async fn an_order_that_makes_no_sense_is_refused() {
    let shop = shop("bad_orders").await;
    let total = Some("orderTotal.amount");
    let total_itself = Some("orderTotal");
    let large = format!(r#"{{"customerId": 1, "filler": "{}"}}"#, "x".repeat(70_000));
    refused(
        &shop.orders,
        "/orders",
        &[
            (r#"{"customerId": 1, "orderTotal": {"amount": 0}}"#, 400, total),
            (r#"{"customerId": 1, "orderTotal": {"amount": -0.01}}"#, 400, total),
            (r#"{"customerId": 1, "orderTotal": {"amount": 0.00001}}"#, 400, total_itself),
            (r#"{"customerId": 1, "orderTotal": {"amount": 1e30}}"#, 400, total_itself),
            (r#"{"customerId": 1, "orderTotal": {"amount": 1000000000000.01}}"#, 400, total_itself),
            (r#"{"customerId": 1, "orderTotal": {"amount": "12"}}"#, 400, total_itself),
            (r#"{"customerId": 1, "orderTotal": {}}"#, 400, total_itself),
            (r#"{"customerId": 1, "orderTotal": 12}"#, 400, total_itself),
            (r#"{"customerId": 1}"#, 400, total_itself),
            (r#"{"customerId": "1", "orderTotal": {"amount": 1}}"#, 400, Some("customerId")),
            (r#"{"customerId": 1.5, "orderTotal": {"amount": 1}}"#, 400, Some("customerId")),
            (r#"{"customerId": 9223372036854775808, "orderTotal": {"amount": 1}}"#, 400, Some("customerId")),
            (r#"{"customerId": null, "orderTotal": {"amount": 1}}"#, 400, Some("customerId")),
            (r#"{"orderTotal": {"amount": 1}}"#, 400, Some("customerId")),
            (r#"{"customerId": 1, "orderTotal": {"amount": 1}"#, 400, None),
            (r#"{"customerId": 1, "orderTotal": {"amount": 1}} and more"#, 400, None),
            ("[]", 400, None),
            (r#"[1, {"amount": 1}]"#, 400, None),
            (r#"{"customerId": 1, "orderTotal": [1]}"#, 400, total_itself),
            ("", 400, None),
            ("\u{1}", 400, None),
            (&large, 413, None),
        ],
    )
    .await;
    assert_eq!(count(&shop.databases[0], "orders").await, 0);
    assert_eq!(count(&shop.databases[0], "outbox").await, 0);

    let cancel = shop.orders.ask(Method::POST, "/orders/seven/cancel", String::new()).await;
    assert_eq!((cancel.0, cancel.1["field"].as_str()), (400, Some("id")));
}

#[tokio::test]
async fn a_customer_that_makes_no_sense_is_refused() {
    let shop = shop("bad_customers").await;
    let named = |name: &str| format!(r#"{{"name": {name}, "creditLimit": {{"amount": 1}}}}"#);
    let (long, longest) =
        (named(&format!("\"{}\"", "ä".repeat(201))), named(&format!("\"{}\"", "ä".repeat(200))));
    let name = Some("name");
    refused(
        &shop.customers,
        "/customers",
        &[
            (&named("\"\""), 400, name),
            (&named("\"  \""), 400, name),
            (&named("7"), 400, name),
            (&named("null"), 400, name),
            (&named("\"A\\u0000da\""), 400, name),
            (&long, 400, name),
            (r#"{"creditLimit": {"amount": 1}}"#, 400, name),
            (r#"{"name": "Ada"}"#, 400, Some("creditLimit")),
            (r#"{"name": "Ada", "creditLimit": {"amount": -1}}"#, 400, Some("creditLimit.amount")),
            (r#"{"name": "Ada", "creditLimit": {"amount": 1e400}}"#, 400, Some("creditLimit")),
            ("{", 400, None),
        ],
    )
    .await;
    assert_eq!(count(&shop.databases[1], "customers").await, 0);
    assert_eq!(count(&shop.databases[1], "outbox").await, 0);
    let (status, answer) = shop.customers.ask(Method::POST, "/customers", longest).await;
    assert_eq!(status, 201, "{answer}");
}

#[tokio::test]
async fn whatever_else_is_asked_is_answered_with_an_error_in_json() {
    let shop = shared_shop().await;
    for (service, method, path, status, field) in [
        (&shop.orders, Method::GET, "/orders/x", 400, Some("id")),
        (&shop.orders, Method::GET, "/orders/99999999999999999999", 400, Some("id")),
        (&shop.orders, Method::GET, "/orders/-1", 404, None),
        (&shop.orders, Method::GET, "/orders?limit=0", 400, Some("limit")),
        (&shop.orders, Method::GET, "/orders?limit=ten", 400, Some("limit")),
        (&shop.orders, Method::GET, "/orders?after=x", 400, Some("after")),
        (&shop.orders, Method::DELETE, "/orders", 405, None),
        (&shop.orders, Method::GET, "/nothing/here", 404, None),
        (&shop.customers, Method::GET, "/customers/x", 400, Some("id")),
        (&shop.customers, Method::GET, "/customers/0", 404, None),
        (&shop.history, Method::GET, "/customers/0/orderhistory", 404, None),
        (&shop.history, Method::GET, "/customers/1/orderhistory?state=LOST", 400, Some("state")),
        (&shop.history, Method::GET, "/customers/1/orderhistory?limit=-1", 400, Some("limit")),
        (&shop.history, Method::GET, "/customers/1/orderhistory?state=PENDING&state=APPROVED", 400, None),
        (&shop.history, Method::GET, "/customers/1/orderhistory?limit=%ff", 400, Some("limit")),
        (&shop.history, Method::POST, "/lag", 405, None),
    ] {
        let (answered, answer) = service.ask(method, path, String::new()).await;
        assert_eq!(answered, status, "{path}: {answer}");
        assert!(answer["error"].is_string(), "{path}: {answer}");
        assert_eq!(answer["field"], field.map_or(Value::Null, Value::from), "{path}: {answer}");
    }
}

#[tokio::test]
async fn what_a_message_says_forges_no_line_of_the_log_and_hides_nothing_in_its_reason() {
    const QUEUE: &str = "customer-service.orders";
    let shop = shop("forged").await;
    let hostile = "Nonsense\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}\u{202e}\u{200b}\u{7f}";
    let body = format!(r#"{{"orderId": "{}"}}"#, "\u{1b}".escape_unicode());
    for (id, event_type, body) in [
        (hostile, hostile, "{}"),
        ("2", "OrderCreated", &body),
        ("3", "OrderCreated", &format!("\u{1b}{hostile}")),
    ] {
        let message = ByHand { id: Some(id), event_type: Some(event_type), body: body.as_bytes() };
        publish(&shop.amqp_url, QUEUE, message).await;
    }
    for _ in 0..3 {
        let dead =
            eventually("it is put aside", async || take(&shop.amqp_url, &format!("{QUEUE}.dead")).await)
                .await;
        let reason = header(&dead, "dead-letter-reason").unwrap();
        println!("{reason}");
        assert!(!reason.contains(is_hidden), "{reason:?}");
    }
    let log = shop.customers.log();
    println!("{log}");
    assert!(log.contains(r"unknown event type 'Nonsense\n2026-01-01T00:00:00Z ERROR forged\r"), "{log}");
    assert!(!log.contains(|c| is_hidden(c) && c != '\n'), "{log:?}");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01")), "{log}");
}
