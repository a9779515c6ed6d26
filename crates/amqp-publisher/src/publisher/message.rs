//! Message to publish, without types of a client library, and its size.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{frame::FRAME_OVERHEAD_BYTES, short_string::SHORT_STRING_BYTES_MAX};

/// Message to publish. It is persistent (`delivery_mode` 2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// Exchange to publish to; empty for the default exchange.
    pub exchange: String,
    /// Routing key.
    pub routing_key: String,
    /// Properties without the headers.
    pub properties: Properties,
    /// Property `headers`, in wire order. Duplicate names are sent as they are.
    pub headers: Vec<(Cow<'static, str>, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

/// Properties of a message (AMQP 0-9-1 reference, class `basic`). `None` is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Property `content_type`.
    pub content_type: Option<Cow<'static, str>>,
    /// Property `content_encoding`.
    pub content_encoding: Option<String>,
    /// Property `priority`.
    pub priority: Option<u8>,
    /// Property `correlation_id`.
    pub correlation_id: Option<String>,
    /// Property `reply_to`.
    pub reply_to: Option<String>,
    /// Property `expiration`: milliseconds in decimal digits.
    pub expiration: Option<String>,
    /// Property `message_id`.
    pub message_id: Option<String>,
    /// Property `timestamp`: seconds since 1970.
    pub timestamp: Option<u64>,
    /// Property `type`.
    pub kind: Option<String>,
    /// Property `app_id`.
    pub app_id: Option<Cow<'static, str>>,
}

/// Value of a header, with its AMQP type.
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
    /// AMQP void (`V`).
    Null,
}

impl Message {
    /// Returns the value of the first header with this name, if it is text.
    pub fn text_header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|(header, value)| match value {
            HeaderValue::Text(text) if header == name => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns the memory that the message takes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let header = |(name, value): &(Cow<'static, str>, HeaderValue)| {
            let text = if let HeaderValue::Text(text) = value { text.len() } else { 0 };
            size_of::<(Cow<'static, str>, HeaderValue)>() + name.len() + text
        };
        size_of::<Self>()
            + self.exchange.len()
            + self.routing_key.len()
            + self.properties.texts().map(str::len).sum::<usize>()
            + self.headers.iter().map(header).sum::<usize>()
            + self.body.len()
    }

    /// Returns the payload size of the content header frame (AMQP 0-9-1 specification, 2.3.5.2).
    pub fn content_header_bytes(&self) -> usize {
        // Class 2, weight 2, size of the body 8, flags 2; delivery_mode 1.
        const FIXED: usize = 14 + 1;
        let short = |text: &str| 1 + text.len();
        let table = match self.headers.is_empty() {
            true => 0,
            false => 4 + self.headers.iter().map(|(name, value)| header_bytes(name, value)).sum::<usize>(),
        };
        let priority = usize::from(self.properties.priority.is_some());
        let timestamp = self.properties.timestamp.map_or(0, |_| size_of::<u64>());
        FIXED + self.properties.texts().map(short).sum::<usize>() + priority + timestamp + table
    }

    /// Returns the size of the content header frame, including its overhead. The connection must allow frames of this
    /// size, or the broker closes it (501 FRAME_ERROR).
    pub fn header_frame_bytes(&self) -> usize {
        FRAME_OVERHEAD_BYTES + self.content_header_bytes()
    }
}

impl Properties {
    /// Returns the properties that are short texts.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let Self {
            content_type,
            content_encoding,
            priority: _,
            correlation_id,
            reply_to,
            expiration,
            message_id,
            timestamp: _,
            kind,
            app_id,
        } = self;
        let shared = [content_type, app_id].into_iter().filter_map(|text| text.as_deref());
        let own = [content_encoding, correlation_id, reply_to, expiration, message_id, kind];
        shared.chain(own.into_iter().filter_map(|text| text.as_deref()))
    }
}

/// Returns the size of a header in its table: short text, type octet, value (4.2.1, `field-value-pair`).
pub fn header_bytes(name: &str, value: &HeaderValue) -> usize {
    let value = match value {
        HeaderValue::Text(text) => 4 + text.len(),
        HeaderValue::Integer(_) | HeaderValue::Double(_) => 8,
        HeaderValue::Boolean(_) => 1,
        HeaderValue::Null => 0,
    };
    1 + name.len() + 1 + value
}

/// Error of a text that exceeds an AMQP short text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its {part} is {length} bytes long, AMQP allows {SHORT_STRING_BYTES_MAX}")]
pub struct TooLong {
    /// Part of the message.
    pub part: &'static str,
    /// Length in bytes.
    pub length: usize,
}
