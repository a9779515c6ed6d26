//! A message as the broker will see it, free of any client library's types, and the limits that AMQP puts on it.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hasher},
};

use bytes::Bytes;

use super::{Properties, Timestamp};
use crate::position::Position;

/// Marks a message that was published on request, and may have been before.
const REPLAYED_HEADER: &str = "outbox-replayed";

/// Property `app_id` of a message that says nothing else.
const APP_ID: &str = "outboxd";

/// Headers that outboxd itself sets, or sets on replay; neither configuration nor a row can override them.
pub const RESERVED_HEADERS: [&str; 6] =
    ["aggregate-type", "aggregate-id", "event-type", "outbox-source", "outbox-position", REPLAYED_HEADER];

/// Headers that RabbitMQ takes as lists of further routing keys ("Sender-selected Distribution"). Any other type than
/// an array makes it close the channel, so such a message could never be published.
pub const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];

/// AMQP 0-9-1 section 4.2.5.3: the length of a short string is one octet.
pub const SHORT_STRING_BYTES_MAX: usize = 255;

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

impl HeaderValue {
    /// Bytes of the value as a field of an AMQP table, without its type octet (section 4.2.1, `field-value`).
    fn encoded_bytes(&self) -> usize {
        match self {
            HeaderValue::Text(text) => 4 + text.len(),
            HeaderValue::Integer(_) | HeaderValue::Double(_) => 8,
            HeaderValue::Boolean(_) => 1,
            HeaderValue::Null => 0,
        }
    }
}

/// What is published for one row. Every text that AMQP limits to 255 bytes is known to fit, and so is the content header.
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
    /// Property `type`, unless `properties` has another.
    pub event_type: String,
    /// Property `content_type`.
    pub content_type: Cow<'static, str>,
    /// All headers, reserved ones first, none twice.
    pub headers: Vec<(Cow<'static, str>, HeaderValue)>,
    /// Properties that only some messages have.
    pub properties: Option<Box<Properties>>,
    /// The payload column's bytes, unchanged; empty for NULL.
    pub body: Bytes,
}

#[cfg(test)]
impl Message {
    /// One of which only the place and the aggregate matter.
    pub(crate) fn empty(position: Position, aggregate: AggregateKey) -> Self {
        Self {
            position,
            committed_at: Timestamp(0),
            aggregate,
            exchange: String::new(),
            routing_key: String::new(),
            message_id: String::new(),
            event_type: String::new(),
            content_type: "".into(),
            headers: Vec::new(),
            properties: None,
            body: Bytes::new(),
        }
    }
}

impl Message {
    /// Bytes of memory this message holds on to while it is in flight, near enough to bound it.
    pub fn size(&self) -> usize {
        let header = |(name, value): &(Cow<'static, str>, HeaderValue)| {
            let text = if let HeaderValue::Text(text) = value { text.len() } else { 0 };
            size_of::<(Cow<'static, str>, HeaderValue)>() + name.len() + text
        };
        size_of::<Self>()
            + self.exchange.len()
            + self.routing_key.len()
            + self.message_id.len()
            + self.event_type.len()
            + self.content_type.len()
            + self.headers.iter().map(header).sum::<usize>()
            + self.properties.as_ref().map_or(0, |own| size_of::<Properties>() + own.text_bytes())
            + self.body.len()
    }

    /// Property `type`; `None`: it has none.
    pub fn kind(&self) -> Option<&str> {
        let own = self.properties.as_ref().and_then(|own| own.kind.as_deref());
        own.map_or(Some(&*self.event_type), |kind| (!kind.is_empty()).then_some(kind))
    }

    /// Property `app_id`; `None`: it has none.
    pub fn app_id(&self) -> Option<&str> {
        let own = self.properties.as_ref().and_then(|own| own.app_id.as_deref());
        own.map_or(Some(APP_ID), |app| (!app.is_empty()).then_some(app))
    }

    /// Every property that it has as an AMQP short string.
    pub fn short_properties(&self) -> impl Iterator<Item = &str> {
        let own = self.properties.as_deref();
        let own = own.map(|own| {
            [&own.content_encoding, &own.correlation_id, &own.reply_to, &own.expiration]
                .into_iter()
                .filter_map(|text| text.as_deref())
        });
        [Some(&*self.content_type), Some(&*self.message_id), self.kind(), self.app_id()]
            .into_iter()
            .flatten()
            .chain(own.into_iter().flatten())
    }

    /// Adds `outbox-replayed: true`, for which [`content_header_bytes`](Self::content_header_bytes) leaves room.
    pub fn mark_replayed(&mut self) {
        self.headers.push((Cow::Borrowed(REPLAYED_HEADER), HeaderValue::Boolean(true)));
    }

    /// Bytes of the content header frame's payload as AMQP encodes it (section 2.3.5.2), with room for
    /// `outbox-replayed`.
    pub fn content_header_bytes(&self) -> usize {
        let short = |text: &str| 1 + text.len();
        // class 2, weight 2, body size 8, property flags 2; delivery_mode 1, timestamp 8.
        let fixed = 14 + 9;
        let replayed = short(REPLAYED_HEADER) + 2;
        let headers = self.headers.iter().map(|(name, value)| header_bytes(name, value)).sum::<usize>();
        let priority = usize::from(self.properties.as_ref().is_some_and(|own| own.priority.is_some()));
        fixed + self.short_properties().map(short).sum::<usize>() + priority + 4 + headers + replayed
    }
}

/// Encoded bytes of one field of the headers table: short string, type octet, value.
pub(super) fn header_bytes(name: &str, value: &HeaderValue) -> usize {
    1 + name.len() + 1 + value.encoded_bytes()
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
