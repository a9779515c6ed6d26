//! The message of a row, with the facts that the ledger needs, and the limits that RabbitMQ and AMQP set.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hasher},
    sync::Arc,
};

use amqp_publisher::publisher::message::{self as amqp, HeaderValue, header_bytes};

use super::Timestamp;
use crate::position::Position;

/// Header with the position. The value is unique within a source.
pub const POSITION_HEADER: &str = "outbox-position";

/// Header of a message that `outboxd replay` published. The message may have been published before.
const REPLAYED_HEADER: &str = "outbox-replayed";

/// Default of the property `app_id`.
pub(super) const APP_ID: &str = "outboxd";

/// Headers that outboxd sets itself. Neither configuration nor a row can override them.
pub const RESERVED_HEADERS: [&str; 6] =
    ["aggregate-type", "aggregate-id", "event-type", "outbox-source", POSITION_HEADER, REPLAYED_HEADER];

/// Headers that RabbitMQ reads as lists of further routing keys ("Sender-selected Distribution"). RabbitMQ closes the channel if
/// the value is not an array, so such a message could never be published.
pub const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];

/// Characters that RabbitMQ removes from names of exchanges and queues in every method except `basic.publish`.
pub const LINE_BREAKS: [char; 2] = ['\r', '\n'];

/// Largest content header (properties and headers, encoded), in bytes.
///
/// A content header cannot be split over frames (AMQP 0-9-1 section 2.3.5.2). A larger one than the negotiated `frame_max` would
/// end the connection, again on every attempt. 15 KiB fit a `frame_max` of 16 KiB, an eighth of RabbitMQ's default.
pub const HEADERS_BYTES_MAX: usize = 15 * 1024;

/// Identifies an aggregate within one source: a hash of its type and id.
///
/// Two aggregates with the same hash wait for each other. The order stays right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AggregateKey(pub u64);

impl AggregateKey {
    /// Returns the key of the aggregate `aggregate_id` of type `aggregate_type`. The key is stable only within this process.
    pub fn new(aggregate_type: &str, aggregate_id: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hasher.write_usize(aggregate_type.len());
        hasher.write(aggregate_type.as_bytes());
        hasher.write(aggregate_id.as_bytes());
        AggregateKey(hasher.finish())
    }
}

/// Message of one row. All texts fit AMQP's 255 bytes, and the content header fits one frame. Clones share the content.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Position of the row, sent as the header `outbox-position`. RabbitMQ sends a returned message back with this header, which
    /// identifies it.
    pub position: Position,
    /// Commit time of the row's transaction, sent in whole seconds as the property `timestamp`.
    pub committed_at: Timestamp,
    /// Aggregate of the row. The ledger keeps the order within it.
    pub aggregate: AggregateKey,
    /// The content that is published.
    pub amqp: Arc<amqp::Message>,
}

#[cfg(test)]
impl Message {
    /// A message for tests where only the position and the aggregate matter.
    pub(crate) fn empty(position: Position, aggregate: AggregateKey) -> Self {
        Self::of(position, aggregate, amqp::Message::default())
    }

    /// A message for tests where the commit time does not matter.
    pub(crate) fn of(position: Position, aggregate: AggregateKey, amqp: amqp::Message) -> Self {
        Self { position, committed_at: Timestamp(0), aggregate, amqp: Arc::new(amqp) }
    }

    /// The message after `change`.
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

    /// Memory that the message takes, in bytes, for the ledger's limit.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.amqp.memory_bytes()
    }

    /// Size of the content header in bytes, with room for `outbox-replayed`.
    pub fn content_header_bytes(&self) -> usize {
        self.amqp.content_header_bytes() + header_bytes(REPLAYED_HEADER, &HeaderValue::Boolean(true))
    }

    /// Adds `outbox-replayed: true`. [`content_header_bytes`](Self::content_header_bytes) reserves the room.
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
