//! The API gateway in front of real services: composition, forwarding, events, and what a service costs that is away.

mod composition;
mod forwarding;
mod hostile;
mod outages;
mod streaming;

use serde_json::Value;
use testkit::{EventStream, Service};

use super::PATIENCE;

/// Returns a gateway's circuit of a service.
async fn circuit(gateway: &Service, service: &str) -> Value {
    let (status, answer) = gateway.get("/api/circuits").await;
    assert_eq!(status, 200, "{answer}");
    let circuits = answer["circuits"].as_array().unwrap();
    circuits.iter().find(|circuit| circuit["service"] == service).unwrap().clone()
}

/// Opens a stream of events and waits until the gateway hears them.
async fn listen(gateway: &Service) -> EventStream {
    crate::eventually("the gateway hears events", async || {
        gateway.metric("events_connected").await.filter(|connected| *connected == 1.0)
    })
    .await;
    EventStream::open(gateway.port(), "/api/events", &[]).await
}

/// Returns the types of an order's events, in order, up to and with `last`.
async fn events_until(stream: &mut EventStream, order: i64, last: &str) -> Vec<String> {
    let mut types = Vec::new();
    loop {
        let event = stream.next_within(PATIENCE).await.expect("the stream goes on");
        if event.data["orderId"] != order {
            continue;
        }
        types.push(event.event.clone());
        if event.event == last {
            return types;
        }
    }
}
