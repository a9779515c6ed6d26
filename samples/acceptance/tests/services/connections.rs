//! Clients that send half a request, send nothing, or do not read: they are disconnected, and nobody waits for them.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{settled, shop};
use testkit::http;

async fn half_sent(port: u16, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Returns everything until the service closes the connection.
async fn answer(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    timeout(crate::PATIENCE, stream.read_to_end(&mut text)).await.expect("the connection is cut").unwrap();
    String::from_utf8(text).unwrap()
}

const HALF_BODY: &str = "POST /orders HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"customerId\"";

#[tokio::test]
async fn half_sent_requests_are_cut_and_hold_up_nobody() {
    let shop = shop("half_sent").await;
    let customer = shop.customer("10").await;
    let port = shop.orders.port();
    let bodies = join_all((0..600).map(|_| half_sent(port, HALF_BODY))).await;
    let heads = join_all((0..20).map(|_| half_sent(port, "GET /orders HTTP/1.1\r\nhost:"))).await;
    let silent = join_all((0..20).map(|_| half_sent(port, ""))).await;
    let elsewhere = HALF_BODY.replace("/orders", "/nowhere");
    let elsewhere = join_all((0..20).map(|_| half_sent(port, &elsewhere))).await;
    let order = shop.order(customer, "10").await;
    assert_eq!(settled(&shop, order).await.0, "APPROVED");

    for answer in join_all(bodies.into_iter().map(answer)).await {
        let lower = answer.to_lowercase();
        assert!(lower.starts_with("http/1.1 408 ") && lower.contains("connection: close"), "{answer}");
        assert!(answer.contains("\"error\":\"the body did not arrive within 10 s\""), "{answer}");
    }
    for answer in join_all(elsewhere.into_iter().map(answer)).await {
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
    for answer in join_all(heads.into_iter().chain(silent).map(answer)).await {
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    let next = shop.order(customer, "0.01").await;
    assert_eq!(settled(&shop, next).await.0, "REJECTED");
}

#[tokio::test]
async fn clients_that_ask_for_nothing_do_not_hold_up_the_end() {
    let mut shop = shop("idle_clients").await;
    let port = shop.orders.port();
    let fresh = half_sent(port, "").await;
    let half_head = half_sent(port, "GET /orders HTTP/1.1\r\n").await;
    let mut idle = half_sent(port, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    // Then half a body is awaited and answered within drain_timeout_s.
    let half_body = half_sent(port, HALF_BODY).await;
    shop.orders.get("/orders").await;
    let half_body = tokio::spawn(answer(half_body));
    assert!(shop.orders.sigterm(crate::PATIENCE).await.success(), "{}", shop.orders.log());
    assert!(half_body.await.unwrap().starts_with("HTTP/1.1 408 "));
    for stream in [fresh, half_head] {
        assert_eq!(answer(stream).await, "");
    }
}

/// Clients that hold their connections. They send nothing, half a request, one byte at a time, many requests without
/// reading, half a body, or end their side.
async fn hold(port: u16, number: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
    let said = match number % 6 {
        0 => String::new(),
        1 => "GET /orders HTTP/1.1\r\nhost:".to_owned(),
        2 => "G".to_owned(),
        3 => "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(20),
        4 => HALF_BODY.to_owned(),
        _ => "GET /healthz HTTP/1.1\r\n".to_owned(),
    };
    // The service may have disconnected it.
    let _ = stream.write_all(said.as_bytes()).await;
    if number % 6 == 5 {
        let _ = stream.shutdown().await;
    }
    stream
}

/// The service may open fewer files than there are clients. Files for its database and broker stay reserved.
#[tokio::test]
async fn two_hundred_clients_that_hold_their_connections_stop_neither_probes_nor_consumers() {
    let mut shop = shop("held").await;
    let customer = shop.customer("10").await;
    shop.orders.sigterm(crate::PATIENCE).await;
    shop.orders.limit_open_files(128);
    shop.orders.start_again();
    shop.orders.wait_ready(crate::PATIENCE).await;
    let port = shop.orders.port();
    let mut held = Vec::new();
    for number in 0..200 {
        held.push(hold(port, number).await);
    }
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        for stream in held.iter().skip(2).step_by(6) {
            let _ = stream.try_write(b"x");
        }
        for path in ["/healthz", "/readyz", "/metrics"] {
            let asked = Instant::now();
            let (status, _) = http::get(port, path).await.unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(status.is_success(), "{path}: {status}");
            longest = longest.max(asked.elapsed());
        }
        // Needs a new connection to the database, and the answer by the broker.
        let order = shop.order(customer, "1").await;
        assert_eq!(settled(&shop, order).await.0, "APPROVED");
        for number in 0..20 {
            held.push(hold(port, number).await);
        }
    }
    println!("the longest probe took {longest:?}; all of it {:?}", begun.elapsed());
    let log = shop.orders.log();
    assert!(!log.contains("could not accept a connection"), "{log}");
    assert!(log.contains("all HTTP connections are in use"), "{log}");
}
