//! From [`Message`] to the frames that publish it. Pure and total.

use std::io::Write;

use amq_protocol::protocol::basic::AMQPProperties;
use bytes::BufMut;

use super::frame::{self, FRAME_END, FRAME_OVERHEAD_BYTES};
use crate::{
    outbox::{HeaderValue, Message, Properties},
    position::{Lsn, Position},
};

/// Header that tells one message of a source from every other; the broker hands it back with a returned message.
pub const POSITION_HEADER: &str = "outbox-position";

/// Largest content header frame in bytes that a connection with our default `frame_max` can carry.
///
/// AMQP splits a body over as many frames as it takes, but the properties, headers included, have to fit into one
/// (AMQP 0-9-1 specification, 2.3.5.2). [`header_frame_size`] of a message must not be above this.
pub const HEADER_FRAME_MAX: usize = super::endpoint::FRAME_MAX as usize;

/// The class `basic`, and its method `publish`.
const BASIC: u16 = 60;
const PUBLISH: u16 = 40;
/// `delivery_mode` of a message that the broker writes to disk.
const PERSISTENT: u8 = 2;

/// A text of the message is longer than an AMQP short string may be. The mapping should not have let it through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its {part} is {length} bytes long, AMQP allows 255")]
pub struct TooLong {
    part: &'static str,
    length: usize,
}

/// Appends the frames that publish a message: method, content header, and as many of the body as it takes (AMQP 0-9-1
/// specification, 4.2.6), none longer than `frame_bytes_max`; whether the header fits tells [`header_frame_size`]. `outbox-position` is set
/// from the message's position whatever its headers say. A message that is `mandatory` comes back when no queue is bound for it.
///
/// # Errors
///
/// Something that AMQP limits to 255 bytes is longer. `out` is as it was.
pub fn put_publish(
    message: &Message,
    mandatory: bool,
    channel: u16,
    frame_bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<(), TooLong> {
    let start = out.len();
    let put = put_method(message, mandatory, channel, out).and_then(|()| put_header(message, channel, out));
    if put.is_err() {
        out.truncate(start);
        return put;
    }
    for part in message.body.chunks(frame_bytes_max - FRAME_OVERHEAD_BYTES) {
        let frame = begin(frame::BODY, channel, out);
        out.extend_from_slice(part);
        end(frame, out);
    }
    Ok(())
}

/// `basic.publish`.
fn put_method(message: &Message, mandatory: bool, channel: u16, out: &mut Vec<u8>) -> Result<(), TooLong> {
    const RESERVED: u16 = 0;
    let frame = begin(frame::METHOD, channel, out);
    out.put_u16(BASIC);
    out.put_u16(PUBLISH);
    out.put_u16(RESERVED);
    put_short("exchange", &message.exchange, out)?;
    put_short("routing key", &message.routing_key, out)?;
    // The first bit; the second is `immediate`.
    out.put_u8(u8::from(mandatory));
    end(frame, out);
    Ok(())
}

/// The properties, in the order of their flags.
fn put_header(message: &Message, channel: u16, out: &mut Vec<u8>) -> Result<(), TooLong> {
    const WEIGHT: u16 = 0;
    const CONTENT_TYPE: u16 = 1 << 15;
    const CONTENT_ENCODING: u16 = 1 << 14;
    const HEADERS: u16 = 1 << 13;
    const DELIVERY_MODE: u16 = 1 << 12;
    const PRIORITY: u16 = 1 << 11;
    const CORRELATION_ID: u16 = 1 << 10;
    const REPLY_TO: u16 = 1 << 9;
    const EXPIRATION: u16 = 1 << 8;
    const MESSAGE_ID: u16 = 1 << 7;
    const TIMESTAMP: u16 = 1 << 6;
    const TYPE: u16 = 1 << 5;
    const APP: u16 = 1 << 3;
    let none = Properties::default();
    let own = message.properties.as_deref().unwrap_or(&none);
    let frame = begin(frame::HEADER, channel, out);
    out.put_u16(BASIC);
    out.put_u16(WEIGHT);
    out.put_u64(message.body.len() as u64);
    // Known only when all of them are written.
    let flags = out.len();
    out.put_u16(0);
    let mut set = HEADERS | DELIVERY_MODE | TIMESTAMP;
    let mut text = |flag, part, text: Option<&str>, out: &mut Vec<u8>| {
        let Some(text) = text else { return Ok(()) };
        set |= flag;
        put_short(part, text, out)
    };
    text(CONTENT_TYPE, "content_type", Some(&message.content_type), out)?;
    text(CONTENT_ENCODING, "content_encoding", own.content_encoding.as_deref(), out)?;
    put_headers(message, out)?;
    out.put_u8(PERSISTENT);
    if let Some(priority) = own.priority {
        out.put_u8(priority);
    }
    text(CORRELATION_ID, "correlation_id", own.correlation_id.as_deref(), out)?;
    text(REPLY_TO, "reply_to", own.reply_to.as_deref(), out)?;
    text(EXPIRATION, "expiration", own.expiration.as_deref(), out)?;
    text(MESSAGE_ID, "message_id", Some(&message.message_id), out)?;
    out.put_u64(seconds(message.committed_at.0));
    text(TYPE, "type", message.kind(), out)?;
    text(APP, "app_id", message.app_id(), out)?;
    if own.priority.is_some() {
        set |= PRIORITY;
    }
    out[flags..flags + 2].copy_from_slice(&set.to_be_bytes());
    end(frame, out);
    Ok(())
}

/// The table `headers` (4.2.5.5).
fn put_headers(message: &Message, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let length = Length::begin(out);
    for (name, value) in message.headers.iter().filter(|(name, _)| name != POSITION_HEADER) {
        put_short("header name", name, out)?;
        match value {
            HeaderValue::Text(text) => {
                out.put_u8(b'S');
                out.put_u32(text.len() as u32);
                out.extend_from_slice(text.as_bytes());
            }
            HeaderValue::Integer(integer) => {
                out.put_u8(b'l');
                out.put_i64(*integer);
            }
            HeaderValue::Double(double) => {
                out.put_u8(b'd');
                out.put_f64(*double);
            }
            HeaderValue::Boolean(boolean) => {
                out.put_u8(b't');
                out.put_u8(u8::from(*boolean));
            }
            HeaderValue::Null => out.put_u8(b'V'),
        }
    }
    put_short("header name", POSITION_HEADER, out)?;
    out.put_u8(b'S');
    let text = Length::begin(out);
    // A vector takes everything.
    let _ = write!(out, "{}", message.position);
    text.end(out);
    length.end(out);
    Ok(())
}

/// Begins a frame; its length is not known yet.
fn begin(kind: u8, channel: u16, out: &mut Vec<u8>) -> Length {
    out.put_u8(kind);
    out.put_u16(channel);
    Length::begin(out)
}

fn end(frame: Length, out: &mut Vec<u8>) {
    frame.end(out);
    out.put_u8(FRAME_END);
}

/// Four octets that say how long what follows them is.
struct Length {
    at: usize,
}

impl Length {
    fn begin(out: &mut Vec<u8>) -> Self {
        let at = out.len();
        out.put_u32(0);
        Self { at }
    }

    fn end(self, out: &mut [u8]) {
        let length = (out.len() - self.at - 4) as u32;
        out[self.at..self.at + 4].copy_from_slice(&length.to_be_bytes());
    }
}

fn put_short(part: &'static str, text: &str, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let length = u8::try_from(text.len()).map_err(|_| TooLong { part, length: text.len() })?;
    out.put_u8(length);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Bytes of the content header frame that a message is sent with, frame overhead included.
/// Above [`HEADER_FRAME_MAX`] the message cannot be sent: the broker would close the connection (501 FRAME_ERROR).
pub fn header_frame_size(message: &Message) -> usize {
    /// Frame type, channel, size and end (8); class, weight, body size and property flags (14).
    const FRAME: usize = 8 + 14;
    /// delivery_mode; timestamp.
    const FIXED: usize = 1 + 8;
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
        + message.short_properties().map(|text| 1 + text.len()).sum::<usize>()
        + usize::from(message.properties.as_ref().is_some_and(|own| own.priority.is_some()))
}

/// The position of a message that the broker handed back; `None` when it is none of ours.
pub(super) fn position_of(properties: &AMQPProperties) -> Option<Position> {
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

/// AMQP's timestamp is unsigned: what was committed before 1970 was committed at 0.
fn seconds(microseconds: i64) -> u64 {
    u64::try_from(microseconds.div_euclid(1_000_000)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use amq_protocol::{
        frame::{AMQPFrame, parsing::parse_frame},
        protocol::{AMQPClass, basic},
        types::AMQPValue,
    };
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
            properties: None,
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

    fn properties() -> impl Strategy<Value = Option<Properties>> {
        let text = || proptest::option::of(".{0,60}");
        let properties = (text(), proptest::option::of(any::<u8>()), text(), text(), text(), text(), text());
        proptest::option::of(properties.prop_map(
            |(content_encoding, priority, correlation_id, reply_to, expiration, kind, app_id)| Properties {
                content_encoding,
                priority,
                correlation_id,
                reply_to,
                expiration,
                kind,
                app_id,
            },
        ))
    }

    const FRAME_BYTES: usize = 4096;

    /// The frames of a message, read back by somebody else's parser.
    fn frames(message: &Message) -> Vec<AMQPFrame> {
        let mut out = Vec::new();
        put_publish(message, true, 1, FRAME_BYTES, &mut out).unwrap();
        let (mut rest, mut frames) = (&out[..], Vec::new());
        while !rest.is_empty() {
            let (left, frame) = parse_frame(rest).expect("a whole frame");
            (rest, frames) = (left, [frames, vec![frame]].concat());
        }
        frames
    }

    fn publish_and_properties(message: &Message) -> (basic::Publish, AMQPProperties) {
        match &frames(message)[..2] {
            [
                AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Publish(publish))),
                AMQPFrame::Header(1, header),
            ] => {
                assert_eq!((header.class_id, header.body_size), (60, message.body.len() as u64));
                (publish.clone(), header.properties.clone())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_takes_as_many_frames_as_it_needs() {
        let payload = FRAME_BYTES - FRAME_OVERHEAD_BYTES;
        for bytes in [0, 1, payload - 1, payload, payload + 1, 3 * payload] {
            let body: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
            let message = Message { body: body.clone().into(), ..message(Vec::new()) };
            let bodies: Vec<Vec<u8>> = frames(&message)
                .into_iter()
                .skip(2)
                .map(|frame| match frame {
                    AMQPFrame::Body(1, part) => part,
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(bodies.len(), bytes.div_ceil(payload));
            assert_eq!(bodies.concat(), body);
        }
    }

    #[test]
    fn properties_are_those_of_the_contract() {
        let headers = vec![
            ("tenant".to_owned(), HeaderValue::Text("t1".into())),
            ("retries".to_owned(), HeaderValue::Integer(-3)),
            (POSITION_HEADER.to_owned(), HeaderValue::Text("a forged one".into())),
        ];
        let (publish, properties) = publish_and_properties(&message(headers));
        assert_eq!(publish.exchange.as_str(), "Order.events");
        assert_eq!(publish.routing_key.as_str(), "OrderCreated");
        assert!(publish.mandatory && !publish.immediate);
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
    fn a_message_is_mandatory_unless_its_exchange_is_described_otherwise() {
        for mandatory in [true, false] {
            let mut out = Vec::new();
            put_publish(&message(Vec::new()), mandatory, 1, FRAME_BYTES, &mut out).unwrap();
            let (_, frame) = parse_frame(&out[..]).unwrap();
            let AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Publish(publish))) = frame else {
                panic!("{frame:?}")
            };
            assert_eq!((publish.mandatory, publish.immediate), (mandatory, false));
        }
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
            let mut out = b"before".to_vec();
            assert_eq!(put_publish(&message, true, 1, FRAME_BYTES, &mut out).unwrap_err().length, 256);
            assert_eq!(out, b"before");
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
            prop_assert_eq!(position_of(&publish_and_properties(&message).1), Some(message.position));
        }

        #[test]
        fn the_header_frame_has_the_size_that_is_told(
            headers in proptest::collection::btree_map("[a-z-]{1,40}", header_value(), 0..20),
            own in properties(),
        ) {
            let mut message = message(headers.into_iter().collect());
            message.properties = own.clone().map(Box::new);
            let mut out = Vec::new();
            put_header(&message, 1, &mut out).unwrap();
            prop_assert_eq!(header_frame_size(&message), out.len());
            let (_, properties) = publish_and_properties(&message);
            let own = own.unwrap_or_default();
            let text = |text: &Option<amq_protocol::types::ShortString>| {
                text.as_ref().map(|text| text.as_str().to_owned())
            };
            prop_assert_eq!(text(properties.content_encoding()), own.content_encoding);
            prop_assert_eq!(*properties.priority(), own.priority);
            prop_assert_eq!(text(properties.correlation_id()), own.correlation_id);
            prop_assert_eq!(text(properties.reply_to()), own.reply_to);
            prop_assert_eq!(text(properties.expiration()), own.expiration);
            let or_default = |own: Option<String>, default: &str| {
                Some(own.unwrap_or_else(|| default.to_owned())).filter(|text| !text.is_empty())
            };
            prop_assert_eq!(text(properties.kind()), or_default(own.kind, "OrderCreated"));
            prop_assert_eq!(text(properties.app_id()), or_default(own.app_id, "outboxd"));
            prop_assert_eq!(text(properties.message_id()), Some("5e1f".to_owned()));
            prop_assert_eq!((*properties.delivery_mode(), properties.user_id()), (Some(2), &None));
            prop_assert_eq!(*properties.timestamp(), Some(1_700_000_000));
            let table = properties.headers().as_ref().unwrap().inner();
            prop_assert_eq!(table.len(), message.headers.len() + 1);
            for (name, value) in &message.headers {
                let expected = match value {
                    HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
                    HeaderValue::Integer(integer) => AMQPValue::LongLongInt(*integer),
                    HeaderValue::Double(double) => AMQPValue::Double(*double),
                    HeaderValue::Boolean(boolean) => AMQPValue::Boolean(*boolean),
                    HeaderValue::Null => AMQPValue::Void,
                };
                prop_assert_eq!(&table[&**name], &expected, "{}", name);
            }
        }
    }
}
