//! The message of a row: what the broker will see, and what the ledger has to know of the row. Limits that RabbitMQ and AMQP put on it.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

use amqp_publisher::publisher::message::{self as amqp, HeaderValue, header_bytes};

use super::Timestamp;
use crate::position::Position;

/// Header that tells one message of a source from every other.
pub const POSITION_HEADER: &str = "outbox-position";

/// Marks a message that was published on request, and may have been before.
const REPLAYED_HEADER: &str = "outbox-replayed";

/// Property `app_id` of a message that says nothing else.
pub(super) const APP_ID: &str = "outboxd";

/// Headers that outboxd itself sets, or sets on replay; neither configuration nor a row can override them.
pub const RESERVED_HEADERS: [&str; 6] =
    ["aggregate-type", "aggregate-id", "event-type", "outbox-source", POSITION_HEADER, REPLAYED_HEADER];

/// Headers that RabbitMQ takes as lists of further routing keys ("Sender-selected Distribution"). Any other type than
/// an array makes it close the channel, so such a message could never be published.
pub const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];

/// Characters that RabbitMQ removes from the names of exchanges and queues in each method but `basic.publish`.
pub const LINE_BREAKS: [char; 2] = ['\r', '\n'];

/// Most bytes that the content header (properties and headers, encoded) may take.
///
/// A content header cannot be split over frames (AMQP 0-9-1 section 2.3.5.2), so one that exceeds the negotiated
/// `frame_max` would cost the connection, again on every attempt. 15 KiB fit a `frame_max` of 16 KiB, an eighth of
/// what RabbitMQ offers by default.
pub const HEADERS_BYTES_MAX: usize = 15 * 1024;

/// Identifies an aggregate within one source: a hash of its type and id.
///
/// Two aggregates that share a hash wait for each other at the gate, which costs time and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AggregateKey(pub u64);

impl AggregateKey {
    /// The key of the aggregate `aggregate_id` of type `aggregate_type`; the same for as long as the process lives.
    pub fn new(aggregate_type: &str, aggregate_id: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hasher.write_usize(aggregate_type.len());
        hasher.write(aggregate_type.as_bytes());
        hasher.write(aggregate_id.as_bytes());
        AggregateKey(hasher.finish())
    }
}

/// Message of one row. Every text that AMQP limits to 255 bytes is known to fit, and so is the content header. Clones share what is
/// published.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The row's place in commit order; also sent as the header `outbox-position`, which makes every message of a
    /// source distinguishable when the broker returns it.
    pub position: Position,
    /// When the row's transaction committed. Sent, in whole seconds, as the property `timestamp`.
    pub committed_at: Timestamp,
    /// The aggregate whose order the gate keeps.
    pub aggregate: AggregateKey,
    /// What is published.
    pub amqp: Arc<amqp::Message>,
}

#[cfg(test)]
impl Message {
    /// One of which only the place and the aggregate matter.
    pub(crate) fn empty(position: Position, aggregate: AggregateKey) -> Self {
        Self::of(position, aggregate, amqp::Message::default())
    }

    /// One of which the commit time does not matter.
    pub(crate) fn of(position: Position, aggregate: AggregateKey, amqp: amqp::Message) -> Self {
        Self { position, committed_at: Timestamp(0), aggregate, amqp: Arc::new(amqp) }
    }

    /// The same, but for what `change` does to it.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut amqp::Message)) -> Self {
        change(Arc::make_mut(&mut self.amqp));
        self
    }
}

impl Message {
    /// Property `message_id`.
    pub fn id(&self) -> &str {
        self.amqp.properties.message_id.as_deref().unwrap_or_default()
    }

    /// Bytes of memory that it takes, for the ledger's limit.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.amqp.memory_bytes()
    }

    /// Bytes of the content header, with room for `outbox-replayed`.
    pub fn content_header_bytes(&self) -> usize {
        self.amqp.content_header_bytes() + header_bytes(REPLAYED_HEADER, &HeaderValue::Boolean(true))
    }

    /// Adds `outbox-replayed: true`, for which [`content_header_bytes`](Self::content_header_bytes) leaves room.
    pub fn mark_replayed(&mut self) {
        let marked = Arc::make_mut(&mut self.amqp);
        marked.headers.push((Cow::Borrowed(REPLAYED_HEADER), HeaderValue::Boolean(true)));
    }
}

#[cfg(test)]
mod tests {
    use super::AggregateKey;

    #[test]
    fn an_aggregate_key_tells_type_from_id() {
        assert_eq!(AggregateKey::new("Order", "1"), AggregateKey::new("Order", "1"));
        assert_ne!(AggregateKey::new("Order", "12"), AggregateKey::new("Order1", "2"));
        assert_ne!(AggregateKey::new("", "Order"), AggregateKey::new("Order", ""));
    }
}
