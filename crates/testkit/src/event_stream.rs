//! Server-sent events as a browser reads them.

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    body::{Bytes, Incoming},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{net::Ipv4Addr, time::Duration};
use tokio::{net::TcpStream, task::JoinHandle};

/// Event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamedEvent {
    /// Name of the event.
    pub event: String,
    /// Id of the event, if it has one.
    pub id: Option<String>,
    /// The data, as JSON.
    pub data: Value,
}

/// Open stream. Dropping it ends the connection.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    text: String,
    driver: JoinHandle<()>,
}

impl EventStream {
    /// Opens a stream at `port` on 127.0.0.1, with these request headers.
    pub async fn open(port: u16, path: &str, headers: &[(&str, &str)]) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("the port listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        let driver = tokio::spawn(async move {
            // The test sees the end of the body.
            let _ = connection.await;
        });
        let mut request =
            Request::get(path).header("host", "localhost").header("accept", "text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new(), driver }
    }

    /// Returns the next event; `None` when the stream has ended. Comments are skipped.
    pub async fn next(&mut self) -> Option<StreamedEvent> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let event = parse(block);
                self.text = rest.to_owned();
                if let Some(event) = event {
                    return Some(event);
                }
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.text += &String::from_utf8_lossy(&data);
            }
        }
    }

    /// As [`next`](Self::next). Panics after `limit`.
    pub async fn next_within(&mut self, limit: Duration) -> Option<StreamedEvent> {
        let next = tokio::time::timeout(limit, self.next()).await;
        next.unwrap_or_else(|_| panic!("no event within {limit:?}"))
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn parse(block: &str) -> Option<StreamedEvent> {
    let field = |name: &str| {
        let mut lines = block.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(field, _)| *field == name).map(|(_, value)| value.trim_start().to_owned())
    };
    let data = serde_json::from_str(&field("data")?).expect("data is JSON");
    Some(StreamedEvent {
        event: field("event").unwrap_or_else(|| "message".to_owned()),
        id: field("id"),
        data,
    })
}
