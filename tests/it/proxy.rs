//! The test kit's proxy: each disturbance does what it says.

use std::time::{Duration, Instant};
use testkit::{Direction, Proxy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Wait after which nothing more is expected.
const SILENCE: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(10);

/// A server behind a proxy that sends every byte back.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.into_split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Proxy::start(port)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap()
}

async fn comes_back(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut answer = vec![0; text.len()];
    timeout(LIMIT, stream.read_exact(&mut answer)).await.expect("an answer in time").unwrap();
    assert_eq!(answer, text);
}

/// The bytes that arrive before the connection ends.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("the connection ends");
    rest
}

#[tokio::test]
async fn forwards_and_counts() {
    let proxy = echo().await;
    comes_back(&mut connect(&proxy).await, &vec![7; 100_000]).await;
    assert_eq!(proxy.passed(Direction::ToServer), 100_000);
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn cut_closes_what_is_open_and_takes_new_connections() {
    let proxy = echo().await;
    let mut open = connect(&proxy).await;
    comes_back(&mut open, b"before").await;
    proxy.cut();
    assert_eq!(rest(&mut open).await, b"");
    comes_back(&mut connect(&proxy).await, b"after").await;
}

#[tokio::test]
async fn refuse_takes_no_connection_until_resumed() {
    let proxy = echo().await;
    let mut open = connect(&proxy).await;
    comes_back(&mut open, b"before").await;
    proxy.refuse();
    assert_eq!(rest(&mut open).await, b"");
    let refused = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    proxy.resume();
    comes_back(&mut connect(&proxy).await, b"after").await;
}

#[tokio::test]
async fn stall_holds_everything_back_and_loses_nothing() {
    let proxy = echo().await;
    let mut open = connect(&proxy).await;
    comes_back(&mut open, b"before").await;
    proxy.stall();
    open.write_all(b"held").await.unwrap();
    let mut answer = [0; 4];
    assert!(timeout(SILENCE, open.read_exact(&mut answer)).await.is_err());
    proxy.resume();
    timeout(LIMIT, open.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"held");
}

#[tokio::test]
async fn stall_of_one_direction_lets_the_other_pass() {
    let proxy = echo().await;
    let mut open = connect(&proxy).await;
    proxy.stall_only(Direction::ToClient);
    open.write_all(b"heard").await.unwrap();
    assert!(timeout(SILENCE, open.read_u8()).await.is_err());
    assert_eq!((proxy.passed(Direction::ToServer), proxy.passed(Direction::ToClient)), (5, 0));
}

#[tokio::test]
async fn cut_after_lets_exactly_that_many_bytes_pass_once() {
    let proxy = echo().await;
    proxy.cut_after(Direction::ToClient, 10);
    let mut open = connect(&proxy).await;
    open.write_all(&[7; 25]).await.unwrap();
    assert_eq!(rest(&mut open).await, [7; 10]);
    comes_back(&mut connect(&proxy).await, &[8; 25]).await;
}

#[tokio::test]
async fn delay_and_throttle_take_their_time() {
    let proxy = echo().await;
    let mut open = connect(&proxy).await;
    proxy.delay(Direction::ToServer, Duration::from_millis(150));
    let start = Instant::now();
    comes_back(&mut open, b"later").await;
    assert!(start.elapsed() >= Duration::from_millis(150));
    proxy.resume();
    proxy.throttle(10_000);
    let start = Instant::now();
    comes_back(&mut open, &[7; 2_000]).await;
    assert!(start.elapsed() >= Duration::from_millis(200));
}
