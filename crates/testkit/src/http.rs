//! HTTP requests to programs of this run: RabbitMQ's management API, outboxd's admin endpoints, the services.

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use std::{net::Ipv4Addr, time::Duration};
use tokio::net::TcpStream;

/// Limit for one answer.
const LIMIT: Duration = Duration::from_secs(20);

/// Status and body of an answer, or the reason why there is none.
pub type Answer = Result<(StatusCode, String), String>;

/// Sends a request to `port` on 127.0.0.1 and reads the whole answer.
///
/// # Errors
///
/// No whole answer within 20 s.
pub async fn request(
    method: Method,
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Answer {
    let answer = send(method, port, path, headers, body).await?;
    Ok((answer.status(), answer.into_body()))
}

/// As [`request`], but returns the answer's headers, too.
///
/// # Errors
///
/// No whole answer within 20 s.
pub async fn send(
    method: Method,
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Result<Response<String>, String> {
    tokio::time::timeout(LIMIT, exchange(method, port, path, headers, body))
        .await
        .unwrap_or_else(|_| Err(format!("no answer from port {port} within {LIMIT:?}")))
}

/// Sends a GET request without credentials.
///
/// # Errors
///
/// No whole answer within 20 s.
pub async fn get(port: u16, path: &str) -> Answer {
    request(Method::GET, port, path, &[], String::new()).await
}

async fn exchange(
    method: Method,
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Result<Response<String>, String> {
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
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
    driver.abort();
    Ok(Response::from_parts(parts, String::from_utf8_lossy(&body).into_owned()))
}
