//! Consumer of a service, with the arrival time of each event.

use crate::queue::QUEUE;
use futures_util::StreamExt;
use lapin::{
    Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Arrival of an event.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Number of the event, `n` of the payload.
    pub n: u32,
    /// Aggregate of the event, `a` of the payload.
    pub aggregate: u32,
    /// Time of the arrival.
    pub at: Instant,
}

/// Stream of arrivals from now on. Ends when dropped.
pub struct Arrivals {
    receiver: mpsc::UnboundedReceiver<Arrival>,
}

impl Arrivals {
    /// Consumes the queue and acknowledges each message.
    pub async fn of(amqp_url: &str) -> Self {
        let connection =
            Connection::connect(amqp_url, ConnectionProperties::default()).await.expect("connected");
        let channel = connection.create_channel().await.expect("channel");
        channel.basic_qos(1000, BasicQosOptions::default()).await.expect("prefetch");
        let options = BasicConsumeOptions::default();
        let mut deliveries = channel
            .basic_consume(QUEUE.into(), "".into(), options, FieldTable::default())
            .await
            .expect("consumer");
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let _open = connection;
            loop {
                let delivery = tokio::select! {
                    delivery = deliveries.next() => delivery,
                    () = sender.closed() => break,
                };
                let Some(Ok(delivery)) = delivery else { break };
                let (n, aggregate) = (number(&delivery.data, "\"n\""), number(&delivery.data, "\"a\""));
                let arrival = Arrival { n, aggregate, at: Instant::now() };
                if sender.send(arrival).is_err() || delivery.ack(BasicAckOptions::default()).await.is_err() {
                    break;
                }
            }
        });
        Self { receiver }
    }

    /// Returns the next arrival within `limit`.
    pub async fn next(&mut self, limit: Duration) -> Option<Arrival> {
        tokio::time::timeout(limit, self.receiver.recv()).await.ok().flatten()
    }
}

/// Returns the number of a key in the payload, however the relay rendered the JSON: with spaces, or as a string in
/// JSON.
fn number(body: &[u8], key: &str) -> u32 {
    let text = String::from_utf8_lossy(body).replace('\\', "");
    let digits = text.split_once(key).map(|(_, rest)| {
        let rest = rest.trim_start_matches([':', ' ', '"']);
        rest.chars().take_while(char::is_ascii_digit).collect::<String>()
    });
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_default()
}
