//! A message as the broker will see it, free of any client library's types.

use bytes::Bytes;

use super::Timestamp;
use crate::position::Position;

/// Identifies an aggregate within one source: a hash of its type and id.
///
/// Two aggregates that share a hash wait for each other at the gate, which costs time and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AggregateKey(pub u64);

/// A header's value, with the AMQP type it is sent as.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderValue {
    /// AMQP long string (`S`).
    Text(String),
    /// AMQP signed 64-bit integer (`l`).
    Integer(i64),
    /// AMQP double (`d`).
    Double(f64),
    /// AMQP boolean (`t`).
    Boolean(bool),
    /// AMQP void (`V`), for a JSON null.
    Null,
}

/// What is published for one row. Every text that AMQP limits to 255 bytes is known to fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The row's place in commit order; also sent as the header `outbox-position`, which makes every message of a
    /// source distinguishable when the broker returns it.
    pub position: Position,
    /// When the row's transaction committed. Sent, in whole seconds, as the property `timestamp`.
    pub committed_at: Timestamp,
    /// The aggregate whose order the gate keeps.
    pub aggregate: AggregateKey,
    /// Exchange to publish to.
    pub exchange: String,
    /// Routing key.
    pub routing_key: String,
    /// Property `message_id`.
    pub message_id: String,
    /// Property `type`.
    pub event_type: String,
    /// Property `content_type`.
    pub content_type: String,
    /// All headers, reserved ones first, none twice.
    pub headers: Vec<(String, HeaderValue)>,
    /// The payload column's bytes, unchanged; empty for NULL.
    pub body: Bytes,
}

impl Message {
    /// Bytes of memory this message holds on to while it is in flight, near enough to bound it.
    pub fn size(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| {
                let value = match value {
                    HeaderValue::Text(text) => text.len(),
                    _ => 8,
                };
                name.len() + value + 56
            })
            .sum();
        self.body.len()
            + headers
            + self.exchange.len()
            + self.routing_key.len()
            + self.message_id.len()
            + self.event_type.len()
            + self.content_type.len()
            + size_of::<Self>()
    }
}
