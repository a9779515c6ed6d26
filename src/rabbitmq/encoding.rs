//! From [`Message`] to AMQP's own terms: exchange, routing key and basic properties. Pure and total.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{
    outbox::{HeaderValue, Message},
    position::{Lsn, Position},
};

/// Header that tells one message of a source from every other; the broker hands it back with a returned message.
pub const POSITION_HEADER: &str = "outbox-position";

/// Largest content header frame in bytes that a connection with our default `frame_max` can carry.
///
/// AMQP splits a body over as many frames as it takes, but the properties, headers included, have to fit into one
/// (AMQP 0-9-1 specification, 2.3.5.2). [`header_frame_size`] of a message must not be above this.
pub const HEADER_FRAME_MAX: usize = super::endpoint::FRAME_MAX as usize;

/// Value of the property `app_id`.
const APP_ID: &str = "outboxd";
/// `delivery_mode` of a message that the broker writes to disk.
const PERSISTENT: u8 = 2;

/// A message as lapin takes it; the body stays where it is.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
}

/// A text of the message is longer than an AMQP short string may be. The mapping should not have let it through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its {part} is {length} bytes long, AMQP allows 255")]
pub struct TooLong {
    part: &'static str,
    length: usize,
}

/// Encodes everything but the body. `outbox-position` is set from the message's position whatever its headers say.
pub(super) fn encode(message: &Message) -> Result<Encoded, TooLong> {
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        headers.insert(short("header name", name)?, field(value));
    }
    let position = AMQPValue::LongString(message.position.to_string().into());
    headers.insert(short("header name", POSITION_HEADER)?, position);

    let properties = BasicProperties::default()
        .with_message_id(short("message_id", &message.message_id)?)
        .with_type(short("type", &message.event_type)?)
        .with_content_type(short("content_type", &message.content_type)?)
        .with_app_id(short("app_id", APP_ID)?)
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(seconds(message.committed_at.0))
        .with_headers(headers);
    Ok(Encoded {
        exchange: short("exchange", &message.exchange)?,
        routing_key: short("routing key", &message.routing_key)?,
        properties,
    })
}

/// Bytes of the content header frame that a message is sent with, frame overhead included.
/// Above [`HEADER_FRAME_MAX`] the message cannot be sent: the broker would close the connection (501 FRAME_ERROR).
pub fn header_frame_size(message: &Message) -> usize {
    /// Frame type, channel, size and end (8); class, weight, body size and property flags (14).
    const FRAME: usize = 8 + 14;
    /// Length prefixes of content_type, message_id, type and app_id; delivery_mode; timestamp.
    const FIXED: usize = 4 + 1 + 8 + APP_ID.len();
    const POSITION_TEXT: usize = 16 + 1 + 8;
    const TABLE: usize = 4;

    let entry = |name: usize, value: usize| 1 + name + 1 + value;
    let headers: usize = message
        .headers
        .iter()
        .filter(|(name, _)| name != POSITION_HEADER)
        .map(|(name, value)| {
            let value = match value {
                HeaderValue::Text(text) => 4 + text.len(),
                HeaderValue::Integer(_) | HeaderValue::Double(_) => 8,
                HeaderValue::Boolean(_) => 1,
                HeaderValue::Null => 0,
            };
            entry(name.len(), value)
        })
        .sum();
    FRAME
        + FIXED
        + TABLE
        + entry(POSITION_HEADER.len(), 4 + POSITION_TEXT)
        + headers
        + message.content_type.len()
        + message.message_id.len()
        + message.event_type.len()
}

/// The position of a message that the broker handed back; `None` when it is none of ours.
pub(super) fn position_of(properties: &BasicProperties) -> Option<Position> {
    let header = properties.headers().as_ref()?.inner().get(POSITION_HEADER)?.as_long_string()?;
    parse_position(header.as_bytes())
}

fn parse_position(text: &[u8]) -> Option<Position> {
    let text = std::str::from_utf8(text).ok()?;
    let (lsn, index) = text.split_once('-')?;
    // from_str_radix would also take a sign.
    let is_hex = |part: &str, digits| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_hex(lsn, 16) || !is_hex(index, 8) {
        return None;
    }
    Some(Position {
        commit_lsn: Lsn(u64::from_str_radix(lsn, 16).ok()?),
        index: u32::from_str_radix(index, 16).ok()?,
    })
}

fn short(part: &'static str, text: &str) -> Result<ShortString, TooLong> {
    ShortString::try_new(text).map_err(|_| TooLong { part, length: text.len() })
}

fn field(value: &HeaderValue) -> AMQPValue {
    match value {
        HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
        HeaderValue::Integer(integer) => AMQPValue::LongLongInt(*integer),
        HeaderValue::Double(double) => AMQPValue::Double(*double),
        HeaderValue::Boolean(boolean) => AMQPValue::Boolean(*boolean),
        HeaderValue::Null => AMQPValue::Void,
    }
}

/// AMQP's timestamp is unsigned: what was committed before 1970 was committed at 0.
fn seconds(microseconds: i64) -> u64 {
    u64::try_from(microseconds.div_euclid(1_000_000)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use crate::outbox::{AggregateKey, Timestamp};

    fn message(headers: Vec<(String, HeaderValue)>) -> Message {
        Message {
            position: Position { commit_lsn: Lsn(0x1_6B37_4D84), index: 7 },
            committed_at: Timestamp(1_700_000_000_999_999),
            aggregate: AggregateKey(1),
            exchange: "Order.events".into(),
            routing_key: "OrderCreated".into(),
            message_id: "5e1f".into(),
            event_type: "OrderCreated".into(),
            content_type: "application/json".into(),
            headers: headers.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            body: bytes::Bytes::from_static(b"{}"),
        }
    }

    fn header_value() -> impl Strategy<Value = HeaderValue> {
        prop_oneof![
            ".{0,300}".prop_map(HeaderValue::Text),
            any::<i64>().prop_map(HeaderValue::Integer),
            (-1e300..1e300).prop_map(HeaderValue::Double),
            any::<bool>().prop_map(HeaderValue::Boolean),
            Just(HeaderValue::Null),
        ]
    }

    #[test]
    fn properties_are_those_of_the_contract() {
        let headers = vec![
            ("tenant".to_owned(), HeaderValue::Text("t1".into())),
            ("retries".to_owned(), HeaderValue::Integer(-3)),
            (POSITION_HEADER.to_owned(), HeaderValue::Text("a forged one".into())),
        ];
        let encoded = encode(&message(headers)).unwrap();
        let properties = &encoded.properties;
        assert_eq!(encoded.exchange.as_str(), "Order.events");
        assert_eq!(encoded.routing_key.as_str(), "OrderCreated");
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "5e1f");
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "OrderCreated");
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
        assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "outboxd");
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(*properties.timestamp(), Some(1_700_000_000));
        let table = properties.headers().as_ref().unwrap().inner();
        assert_eq!(table["tenant"], AMQPValue::LongString("t1".into()));
        assert_eq!(table["retries"], AMQPValue::LongLongInt(-3));
        assert_eq!(table[POSITION_HEADER], AMQPValue::LongString("000000016B374D84-00000007".into()));
    }

    #[test]
    fn a_text_too_long_for_amqp_is_an_error_and_no_panic() {
        for change in [
            |m: &mut Message| m.exchange = "x".repeat(256),
            |m: &mut Message| m.routing_key = "x".repeat(256),
            |m: &mut Message| m.message_id = "x".repeat(256),
            |m: &mut Message| m.headers = vec![("x".repeat(256).into(), HeaderValue::Null)],
        ] {
            let mut message = message(Vec::new());
            change(&mut message);
            assert_eq!(encode(&message).unwrap_err().length, 256);
        }
    }

    #[test]
    fn a_commit_before_1970_has_timestamp_zero() {
        assert_eq!(seconds(-1), 0);
        assert_eq!(seconds(i64::MIN), 0);
        assert_eq!(seconds(1_999_999), 1);
    }

    #[test]
    fn only_our_own_positions_parse() {
        for bad in
            ["", "-", "000000016B374D84-0000007", "+00000016B374D84-00000007", "g00000016B374D84-00000007"]
        {
            assert_eq!(parse_position(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse_position(&[0xFF; 25]), None);
    }

    proptest! {
        #[test]
        fn a_position_survives_the_way_there_and_back(lsn: u64, index: u32) {
            let mut message = message(Vec::new());
            message.position = Position { commit_lsn: Lsn(lsn), index };
            prop_assert_eq!(position_of(&encode(&message).unwrap().properties), Some(message.position));
        }

        #[test]
        fn the_header_frame_has_the_size_that_is_told(
            headers in proptest::collection::btree_map("[a-z-]{1,40}", header_value(), 0..20),
        ) {
            let message = message(headers.into_iter().collect());
            let properties = encode(&message).unwrap().properties;
            let mut buffer = vec![0; 65536];
            let buffer = Cursor::new(buffer.as_mut_slice());
            let written = lapin::protocol::basic::gen_properties(&properties)(buffer.into());
            let written = written.expect("64 KiB are enough");
            let properties_size = usize::try_from(written.position).unwrap();
            // 2 of the 14 bytes before the properties are the flags, which lapin counts among them.
            prop_assert_eq!(header_frame_size(&message), 8 + 12 + properties_size);
        }
    }
}
