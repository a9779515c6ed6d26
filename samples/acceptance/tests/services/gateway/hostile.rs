//! Requests that no honest browser sends.

use std::net::Ipv4Addr;

use crate::{PATIENCE, eventually, shared_shop};
use hyper::Method;
use serde_json::{Value, json};
use testkit::{Service, shared_postgres};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sends bytes and returns what comes until the end of the connection.
async fn raw(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let mut answer = Vec::new();
    let exchange = async {
        // The gateway may end the connection before it has all.
        let _ = stream.write_all(request).await;
        let _ = stream.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

/// Lines of a service's log for requests that it has answered.
fn answered(service: &Service) -> usize {
    service.log().lines().filter(|line| line.contains("\"answered\"")).count()
}

#[tokio::test]
async fn ids_are_numbers_and_lead_nowhere_else() {
    let shop = shared_shop().await;
    let gateway = shop.gateway().await;
    let port = gateway.port();
    for id in [
        "x",
        "1.5",
        "9223372036854775808",
        "-",
        "%2e%2e",
        "..%2fcustomers",
        "1%2f..%2f..%2fmetrics",
        "1%0d%0ax-evil:%201",
        "1%00",
        "1%3flimit=1",
        "1;a=b",
        "%ff",
    ] {
        for path in [
            format!("/api/orders/{id}"),
            format!("/api/orders/{id}/saga"),
            format!("/api/customers/{id}/orders"),
            format!("/api/customers/{id}/orderhistory"),
        ] {
            let (code, answer) = gateway.get(&path).await;
            assert_eq!((code, &answer["field"]), (400, &json!("id")), "{path}: {answer}");
        }
        let (code, _) = gateway.post(&format!("/api/orders/{id}/cancel"), &json!({})).await;
        assert_eq!(code, 400);
    }
    // Paths that are none of the gateway's reach no service.
    for path in [
        "/api/../metrics",
        "/api/orders/../../metrics",
        "/api//orders",
        "/api/metrics",
        "/orders",
        "/api/customers/1",
        "//orders/1",
        "/api/orders/1/2",
    ] {
        let answer =
            raw(port, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
                .await;
        assert_eq!(status(&answer), 404, "{path}: {answer}");
    }
    // A request for another host, as to a proxy, is one for the gateway's own path.
    let answer =
        raw(port, b"GET http://127.0.0.1:1/api/orders/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await;
    assert_eq!(status(&answer), 400, "{answer}");
    for method in ["CONNECT", "DELETE", "PUT", "TRACE"] {
        let target = if method == "CONNECT" { "127.0.0.1:1" } else { "/api/orders/1" };
        let answer = raw(
            port,
            format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .await;
        assert!((400..500).contains(&status(&answer)), "{method}: {answer}");
    }
}

#[tokio::test]
async fn one_request_stays_one_request() {
    let shop = shared_shop().await;
    let gateway = shop.gateway().await;
    let port = gateway.port();
    let inner = "POST /orders HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    let chunk = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    for head in [
        // Two lengths, a length beside chunks, and chunks by other names.
        format!("content-length: 0\r\ncontent-length: {}\r\n", inner.len()),
        "content-length: 0\r\ntransfer-encoding: chunked\r\n".to_owned(),
        "transfer-encoding: chunked, identity\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        "content-length: +5\r\n".to_owned(),
        "content-length : 5\r\n".to_owned(),
    ] {
        let request =
            format!("POST /api/orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n{chunk}");
        let answer = raw(port, request.as_bytes()).await;
        assert!((400..500).contains(&status(&answer)), "{head}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head}: {answer}");
    }
    // Headers that a service would act on do not reach it: it answers the gateway's own request, whole.
    let customer = shop.customer("10").await;
    let body = json!({"customerId": customer, "orderTotal": {"amount": 1}}).to_string();
    let headers = [
        ("x-forwarded-for", "1.2.3.4"),
        ("content-encoding", "gzip"),
        ("expect", "100-continue"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("x-http-method-override", "DELETE"),
        ("content-type", "text/plain; charset=\"x\""),
        ("cookie", "a=b"),
    ];
    let answer = gateway.send(Method::POST, "/api/orders", &headers, body).await;
    assert_eq!(answer.status(), 201, "{answer:?}");
}

#[tokio::test]
async fn large_and_slow_requests_cost_no_service_anything() {
    let shop = crate::shop("large").await;
    let gateway = shop.gateway().await;
    let port = gateway.port();
    let before = answered(&shop.orders) + answered(&shop.customers);
    let large = "x".repeat(1 << 20);
    for path in ["/api/orders", "/api/customers", "/api/orders/1/cancel"] {
        let (code, answer) = gateway.ask(Method::POST, path, large.clone()).await;
        assert_eq!(code, 413, "{answer}");
        // Chunks without an end.
        let chunks = format!("10000\r\n{}\r\n", "y".repeat(0x10000)).repeat(20);
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
        );
        let answer = raw(port, request.as_bytes()).await;
        assert_eq!(status(&answer), 413, "{answer}");
    }
    let many = (0..300).map(|number| format!("x-h{number}: {number}\r\n")).collect::<String>();
    let answer = raw(port, format!("GET /api/orders HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes()).await;
    assert_eq!(status(&answer), 431, "{answer}");
    let long = format!("GET /api/orders?{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(1 << 20));
    let answer = raw(port, long.as_bytes()).await;
    assert!((400..500).contains(&status(&answer)), "{answer}");
    // A body that does not come.
    let half = b"POST /api/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{";
    let answer = raw(port, half).await;
    assert_eq!(status(&answer), 408, "{answer}");
    assert_eq!(answered(&shop.orders) + answered(&shop.customers), before);
    assert_eq!(gateway.get_text("/healthz").await.0, 200);
}

#[tokio::test]
async fn request_id_and_trace_reach_services_logs_and_outbox() {
    let shop = crate::shop("context").await;
    let gateway = shop.gateway().await;
    let customer = shop.customer("10").await;
    let trace = "5bf92f3577b34da6a3ce929d0e0e4737";
    let headers = [
        ("traceparent", "00-5bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-01"),
        ("x-request-id", "from-the-browser-1"),
    ];
    let body = json!({"customerId": customer, "orderTotal": {"amount": 1}}).to_string();
    let placed = gateway.send(Method::POST, "/api/orders", &headers, body).await;
    assert_eq!(placed.status(), 201);
    assert_eq!(placed.headers()["x-request-id"], "from-the-browser-1");
    assert!(placed.headers()["traceparent"].to_str().unwrap().starts_with(&format!("00-{trace}-")));
    let composed = format!("/api/customers/{customer}/orders");
    let answer = gateway.send(Method::GET, &composed, &headers, String::new()).await;
    assert_eq!(answer.status(), 200);
    for service in [&gateway, &shop.orders, &shop.customers] {
        let logged = || {
            let log = service.log();
            let of_request = log.lines().filter(|line| line.contains("from-the-browser-1"));
            of_request.map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
        };
        let lines =
            eventually("the request is logged", async || Some(logged()).filter(|lines| !lines.is_empty()))
                .await;
        assert!(lines.iter().all(|line| line["span"]["trace_id"] == trace), "{lines:?}");
    }
    let name = shop.databases[0].rsplit('/').next().unwrap();
    let client = shared_postgres().await.client(name).await;
    let row = client
        .query_one("SELECT headers ->> 'traceparent' FROM public.outbox WHERE type = 'OrderCreated'", &[]);
    let traceparent: String = row.await.unwrap().get(0);
    assert!(traceparent.contains(trace), "{traceparent}");

    // One that could forge a line of the log is replaced; none is made.
    for given in ["a b", "{\"level\":\"ERROR\"}", &"x".repeat(129)] {
        let answer =
            gateway.send(Method::GET, "/api/orders/0", &[("x-request-id", given)], String::new()).await;
        let made = answer.headers()["x-request-id"].to_str().unwrap();
        assert!(made.len() == 32 && made != given, "{made}");
    }
}
