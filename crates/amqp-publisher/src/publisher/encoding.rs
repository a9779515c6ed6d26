//! Encoding of a [`Message`] as frames. Pure and total.

use amq_protocol::protocol::basic::AMQPProperties;
use bytes::BufMut;

use super::message::{HeaderValue, Message, TooLong};
use crate::frame::{self, FRAME_END, FRAME_OVERHEAD_BYTES};

/// Class `basic`, with its method `publish`.
const BASIC: u16 = 60;
const PUBLISH: u16 = 40;
/// `delivery_mode` of a message that the broker writes to disk.
const PERSISTENT: u8 = 2;

/// Appends the frames of a message: method, content header, and as many body frames as needed (AMQP 0-9-1
/// specification, 4.2.6), none longer than `frame_bytes_max`. [`Message::header_frame_bytes`] tells whether the
/// header fits. The broker returns a `mandatory` message that no queue is bound for.
///
/// # Errors
///
/// [`TooLong`] when a text exceeds AMQP's 255 bytes. `out` is then unchanged.
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

/// Appends `basic.publish`.
fn put_method(message: &Message, mandatory: bool, channel: u16, out: &mut Vec<u8>) -> Result<(), TooLong> {
    const RESERVED: u16 = 0;
    let frame = begin(frame::METHOD, channel, out);
    out.put_u16(BASIC);
    out.put_u16(PUBLISH);
    out.put_u16(RESERVED);
    put_short("exchange", &message.exchange, out)?;
    put_short("routing key", &message.routing_key, out)?;
    // The first bit is `mandatory`, the second `immediate`.
    out.put_u8(u8::from(mandatory));
    end(frame, out);
    Ok(())
}

/// Appends the content header. Properties are in the order of their flags.
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
    let own = &message.properties;
    let frame = begin(frame::HEADER, channel, out);
    out.put_u16(BASIC);
    out.put_u16(WEIGHT);
    out.put_u64(message.body.len() as u64);
    // Filled in after all properties.
    let flags = out.len();
    out.put_u16(0);
    let mut set = DELIVERY_MODE;
    let text = |set: &mut u16, flag, part, text: Option<&str>, out: &mut Vec<u8>| {
        let Some(text) = text else { return Ok(()) };
        *set |= flag;
        put_short(part, text, out)
    };
    text(&mut set, CONTENT_TYPE, "content_type", own.content_type.as_deref(), out)?;
    text(&mut set, CONTENT_ENCODING, "content_encoding", own.content_encoding.as_deref(), out)?;
    if !message.headers.is_empty() {
        set |= HEADERS;
        put_headers(message, out)?;
    }
    out.put_u8(PERSISTENT);
    if let Some(priority) = own.priority {
        set |= PRIORITY;
        out.put_u8(priority);
    }
    text(&mut set, CORRELATION_ID, "correlation_id", own.correlation_id.as_deref(), out)?;
    text(&mut set, REPLY_TO, "reply_to", own.reply_to.as_deref(), out)?;
    text(&mut set, EXPIRATION, "expiration", own.expiration.as_deref(), out)?;
    text(&mut set, MESSAGE_ID, "message_id", own.message_id.as_deref(), out)?;
    if let Some(timestamp) = own.timestamp {
        set |= TIMESTAMP;
        out.put_u64(timestamp);
    }
    text(&mut set, TYPE, "type", own.kind.as_deref(), out)?;
    text(&mut set, APP, "app_id", own.app_id.as_deref(), out)?;
    out[flags..flags + 2].copy_from_slice(&set.to_be_bytes());
    end(frame, out);
    Ok(())
}

/// Appends the table `headers` (4.2.5.5).
fn put_headers(message: &Message, out: &mut Vec<u8>) -> Result<(), TooLong> {
    let length = Length::begin(out);
    for (name, value) in &message.headers {
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
    length.end(out);
    Ok(())
}

/// Begins a frame of unknown length.
fn begin(kind: u8, channel: u16, out: &mut Vec<u8>) -> Length {
    out.put_u8(kind);
    out.put_u16(channel);
    Length::begin(out)
}

fn end(frame: Length, out: &mut Vec<u8>) {
    frame.end(out);
    out.put_u8(FRAME_END);
}

/// Position of a four-octet length, which is filled in at the end.
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

/// Returns the text of a returned message's header.
pub(super) fn text_header<'a>(properties: &'a AMQPProperties, name: &str) -> Option<&'a [u8]> {
    Some(properties.headers().as_ref()?.inner().get(name)?.as_long_string()?.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use amq_protocol::{
        frame::{AMQPFrame, parsing::parse_frame},
        protocol::{AMQPClass, basic},
        types::{AMQPValue, FieldTable},
    };
    use proptest::prelude::*;

    use super::{super::message::Properties, *};

    fn message(headers: Vec<(String, HeaderValue)>) -> Message {
        Message {
            exchange: "Order.events".into(),
            routing_key: "OrderCreated".into(),
            properties: Properties {
                content_type: Some("application/json".into()),
                message_id: Some("5e1f".to_owned()),
                timestamp: Some(1_700_000_000),
                kind: Some("OrderCreated".to_owned()),
                app_id: Some("shop".into()),
                ..Properties::default()
            },
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

    fn properties() -> impl Strategy<Value = Properties> {
        let text = || proptest::option::of(".{0,60}");
        let shared = || text().prop_map(|text| text.map(Into::into));
        let numbers = (proptest::option::of(any::<u8>()), proptest::option::of(any::<u64>()));
        let texts = (text(), text(), text(), text(), text(), text());
        (shared(), shared(), numbers, texts).prop_map(
            |(
                content_type,
                app_id,
                (priority, timestamp),
                (content_encoding, correlation_id, reply_to, expiration, message_id, kind),
            )| Properties {
                content_type,
                content_encoding,
                priority,
                correlation_id,
                reply_to,
                expiration,
                message_id,
                timestamp,
                kind,
                app_id,
            },
        )
    }

    const FRAME_BYTES: usize = 4096;

    /// Returns a message's frames, parsed by the codec.
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
    fn a_message_is_sent_with_its_properties_and_headers() {
        let headers = vec![
            ("tenant".to_owned(), HeaderValue::Text("t1".into())),
            ("retries".to_owned(), HeaderValue::Integer(-3)),
        ];
        let (publish, properties) = publish_and_properties(&message(headers));
        assert_eq!(publish.exchange.as_str(), "Order.events");
        assert_eq!(publish.routing_key.as_str(), "OrderCreated");
        assert!(publish.mandatory && !publish.immediate);
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "5e1f");
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "OrderCreated");
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
        assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "shop");
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(*properties.timestamp(), Some(1_700_000_000));
        let table = properties.headers().as_ref().unwrap().inner();
        assert_eq!(table["tenant"], AMQPValue::LongString("t1".into()));
        assert_eq!(table["retries"], AMQPValue::LongLongInt(-3));
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
            |m: &mut Message| m.properties.message_id = Some("x".repeat(256)),
            |m: &mut Message| m.headers = vec![("x".repeat(256).into(), HeaderValue::Null)],
        ] {
            let mut message = message(Vec::new());
            change(&mut message);
            let mut out = b"before".to_vec();
            assert_eq!(put_publish(&message, true, 1, FRAME_BYTES, &mut out).unwrap_err().length, 256);
            assert_eq!(out, b"before");
        }
    }

    proptest! {
        #[test]
        fn a_header_is_found_when_the_message_comes_back(value in ".{0,300}") {
            let headers = vec![("n".to_owned(), HeaderValue::Text(value.clone()))];
            let (_, properties) = publish_and_properties(&message(headers));
            prop_assert_eq!(text_header(&properties, "n"), Some(value.as_bytes()));
            prop_assert_eq!(text_header(&properties, "m"), None);
        }

        #[test]
        fn the_header_frame_has_the_size_that_is_told(
            headers in proptest::collection::btree_map("[a-z-]{1,40}", header_value(), 0..20),
            own in properties(),
        ) {
            let message = Message { properties: own.clone(), ..message(headers.into_iter().collect()) };
            let mut out = Vec::new();
            put_header(&message, 1, &mut out).unwrap();
            prop_assert_eq!(message.header_frame_bytes(), out.len());
            let (_, properties) = publish_and_properties(&message);
            let text = |text: &Option<amq_protocol::types::ShortString>| {
                text.as_ref().map(|text| text.as_str().to_owned())
            };
            let shared = |text: Option<std::borrow::Cow<'static, str>>| text.map(String::from);
            prop_assert_eq!(text(properties.content_type()), shared(own.content_type));
            prop_assert_eq!(text(properties.content_encoding()), own.content_encoding);
            prop_assert_eq!(*properties.priority(), own.priority);
            prop_assert_eq!(text(properties.correlation_id()), own.correlation_id);
            prop_assert_eq!(text(properties.reply_to()), own.reply_to);
            prop_assert_eq!(text(properties.expiration()), own.expiration);
            prop_assert_eq!(text(properties.message_id()), own.message_id);
            prop_assert_eq!(*properties.timestamp(), own.timestamp);
            prop_assert_eq!(text(properties.kind()), own.kind);
            prop_assert_eq!(text(properties.app_id()), shared(own.app_id));
            prop_assert_eq!((*properties.delivery_mode(), properties.user_id()), (Some(2), &None));
            let none = FieldTable::default();
            let table = properties.headers().as_ref().unwrap_or(&none).inner();
            prop_assert_eq!(table.len(), message.headers.len());
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
