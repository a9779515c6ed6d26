//! One HTTP request to a program of this run: the management API of RabbitMQ, the admin endpoints of outboxd.

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use std::{net::Ipv4Addr, time::Duration};
use tokio::net::TcpStream;

/// No answer here takes long.
const LIMIT: Duration = Duration::from_secs(20);

/// An answer, or why there was none.
pub type Answer = Result<(StatusCode, String), String>;

/// Sends one request to `port` on 127.0.0.1 and reads the whole answer.
pub async fn request(method: Method, port: u16, path: &str, basic: Option<&str>, body: String) -> Answer {
    tokio::time::timeout(LIMIT, exchange(method, port, path, basic, body))
        .await
        .unwrap_or_else(|_| Err(format!("no answer from port {port} within {LIMIT:?}")))
}

/// A GET without credentials.
pub async fn get(port: u16, path: &str) -> Answer {
    request(Method::GET, port, path, None, String::new()).await
}

async fn exchange(method: Method, port: u16, path: &str, basic: Option<&str>, body: String) -> Answer {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("connection", "close")
        .header("content-type", "application/json");
    if let Some(basic) = basic {
        request = request.header("authorization", format!("Basic {basic}"));
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
    driver.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
