//! Properties of copied messages: one that moves to its dead-letter queue, and one that returns.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

/// Header of a dead letter with the reason.
pub const REASON_HEADER: &str = "dead-letter-reason";
/// Longest reason, in characters. A longer one is cut.
const REASON_CHARS_MAX: usize = 1000;
/// Largest share of a frame for a reason.
const REASON_OF_FRAME: usize = 8;
/// Most bytes of a copy's content header besides headers and reason: frame, class and size of the body, flags, length
/// of the headers, name and head of the reason, delivery mode, timestamp; and some for the broker's additions.
const REST_BYTES: usize = 256;
/// `delivery_mode` of a persistent message.
const PERSISTENT: u8 = 2;
/// Headers that address more queues (RabbitMQ's sender-selected distribution).
const ADDRESSES: [&str; 2] = ["CC", "BCC"];
/// Headers that record a message's way into a dead-letter queue. The broker's begin as listed.
const WAYS: [&str; 6] =
    [REASON_HEADER, "x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count"];

/// Returns the properties of a dead letter with `reason`. The largest headers are omitted as far as they exceed a
/// frame of `frame_bytes`, for which the broker would close the connection; the reason says so.
pub(super) fn with_reason(properties: &BasicProperties, reason: &str, frame_bytes: usize) -> BasicProperties {
    let headers_max = headers_max(properties, frame_bytes);
    let (mut headers, left_out) = copy(properties.headers().as_ref(), headers_max, |_| true);
    let note = match left_out {
        0 => String::new(),
        left_out => format!(
            " ({left_out} of its headers were left out, the largest: together they take more than {headers_max} bytes)"
        ),
    };
    let bytes = (frame_bytes / REASON_OF_FRAME).saturating_sub(note.len());
    let ends = reason.char_indices().map(|(start, char)| start + char.len_utf8()).take(REASON_CHARS_MAX);
    let reason = &reason[..ends.take_while(|end| *end <= bytes).last().unwrap_or_default()];
    let reason = LongString::from(format!("{reason}{note}"));
    headers.insert(REASON_HEADER.into(), AMQPValue::LongString(reason));
    copied(properties, headers)
}

/// Returns the properties of a message that returns to its queue, without the record of its death. The largest
/// headers are omitted as far as they exceed a frame of `frame_bytes`.
pub(super) fn put_back(properties: &BasicProperties, frame_bytes: usize) -> BasicProperties {
    let is_own = |name: &str| !WAYS.iter().any(|way| name.starts_with(way));
    copied(properties, copy(properties.headers().as_ref(), headers_max(properties, frame_bytes), is_own).0)
}

/// Returns the room for a copy's headers besides its other properties and a reason. In frames of the usual size that
/// is half a frame, which leaves room for the broker's additions.
fn headers_max(properties: &BasicProperties, frame_bytes: usize) -> usize {
    let texts = TEXTS.iter().filter_map(|(text, _)| text(properties).as_ref());
    let texts: usize = texts.map(|text| 1 + text.as_str().len()).sum();
    let left = frame_bytes.saturating_sub(frame_bytes / REASON_OF_FRAME + texts + REST_BYTES);
    left.min(frame_bytes / 2)
}

/// Copies the wanted headers that fit, the smallest first, which are a relay's own. Returns how many do not fit.
fn copy(
    from: Option<&FieldTable>,
    bytes_max: usize,
    is_wanted: impl Fn(&str) -> bool,
) -> (FieldTable, usize) {
    let headers = from.into_iter().flat_map(|from| from.inner());
    let mut wanted: Vec<_> = headers
        .filter(|(name, _)| !ADDRESSES.contains(&name.as_str()) && is_wanted(name.as_str()))
        .map(|(name, value)| (member_bytes(name, value), name, value))
        .collect();
    wanted.sort_by_key(|(bytes, ..)| *bytes);
    let (mut kept, mut left_out, mut total) = (FieldTable::default(), 0, 0);
    for (bytes, name, value) in wanted {
        total += bytes;
        if total > bytes_max {
            left_out += 1;
        } else {
            kept.insert(name.clone(), value.clone());
        }
    }
    (kept, left_out)
}

/// Returns the size of a table's member in a frame: a byte for the name's length, the name, the value.
fn member_bytes(name: &ShortString, value: &AMQPValue) -> usize {
    1 + name.as_str().len() + value_bytes(value)
}

/// Returns the most bytes of a value in a frame: a byte for its type, four for a length.
fn value_bytes(value: &AMQPValue) -> usize {
    const HEAD: usize = 5;
    /// Largest number or time.
    const FIXED_MAX: usize = 9;
    match value {
        AMQPValue::LongString(text) => HEAD + text.as_bytes().len(),
        AMQPValue::ShortString(text) => HEAD + text.as_str().len(),
        AMQPValue::ByteArray(bytes) => HEAD + bytes.as_slice().len(),
        AMQPValue::FieldArray(items) => HEAD + items.as_slice().iter().map(value_bytes).sum::<usize>(),
        AMQPValue::FieldTable(table) => {
            HEAD + table.inner().iter().map(|(name, value)| member_bytes(name, value)).sum::<usize>()
        }
        _ => FIXED_MAX,
    }
}

/// Getter and setter of a text property.
type Text =
    (fn(&BasicProperties) -> &Option<ShortString>, fn(BasicProperties, ShortString) -> BasicProperties);

/// Text properties that a copy keeps.
const TEXTS: [Text; 7] = [
    (BasicProperties::message_id, BasicProperties::with_message_id),
    (BasicProperties::kind, BasicProperties::with_type),
    (BasicProperties::content_type, BasicProperties::with_content_type),
    (BasicProperties::content_encoding, BasicProperties::with_content_encoding),
    (BasicProperties::correlation_id, BasicProperties::with_correlation_id),
    (BasicProperties::reply_to, BasicProperties::with_reply_to),
    (BasicProperties::app_id, BasicProperties::with_app_id),
];

/// Returns the message's properties without those of its delivery: its sender (`user_id`, which the broker compares
/// with this client's), its expiration (`expiration`), and further addresses.
fn copied(properties: &BasicProperties, headers: FieldTable) -> BasicProperties {
    let mut kept = BasicProperties::default().with_headers(headers).with_delivery_mode(PERSISTENT);
    for (text, with_text) in TEXTS {
        if let Some(text) = text(properties) {
            kept = with_text(kept, text.clone());
        }
    }
    match properties.timestamp() {
        Some(timestamp) => kept.with_timestamp(*timestamp),
        None => kept,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame};

    use super::*;

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    fn with_headers(headers: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default().with_headers(table)
    }

    #[test]
    fn of_headers_that_do_not_fit_a_copy_keeps_those_of_the_relay() {
        let relays = [("outbox-source", text("orders")), ("outbox-replayed", AMQPValue::Boolean(true))];
        let trace = ("x-exception-stacktrace", text(&"x".repeat(40_000)));
        let [source, replayed] = relays;
        let message = with_headers(&[source.clone(), trace, replayed]);
        let fits = with_reason(&message, "why", 131_072);
        assert_eq!(fits.headers().as_ref().unwrap().inner().len(), 4, "40 kB are less than half a frame");
        let buried = with_reason(&message, "why", 60_000);
        let headers = buried.headers().as_ref().unwrap();
        assert!(!headers.contains_key("x-exception-stacktrace"));
        let reason = headers.inner().get(REASON_HEADER).unwrap().as_long_string().unwrap().to_string();
        assert!(reason.starts_with("why (1 of its headers were left out"), "{reason}");
        let back = put_back(&buried, 60_000);
        let headers = back.headers().as_ref().unwrap();
        assert_eq!(headers.inner().get("outbox-source"), Some(&source.1));
        assert_eq!(headers.inner().len(), 2, "{headers:?}");
    }

    /// RabbitMQ ends the connection (501) for a longer content header, and the message would return.
    #[test]
    fn a_copy_fits_into_the_smallest_frame_with_as_much_as_a_message_can_hold() {
        let headers: Vec<_> = (0..40).map(|number| (format!("h{number}"), text(&"x".repeat(90)))).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let full = TEXTS.iter().fold(with_headers(&headers), |properties, (_, with_text)| {
            with_text(properties, "x".repeat(255).as_str().into())
        });
        let full = full.with_timestamp(1);
        for frame_bytes in [4096, 8192, 131_072] {
            for copy in
                [with_reason(&full, &"\u{10348}".repeat(2000), frame_bytes), put_back(&full, frame_bytes)]
            {
                let header = AMQPContentHeader { class_id: 60, body_size: 1, properties: copy.clone() };
                let frame = gen_frame(&AMQPFrame::Header(1, header))(Vec::new().into()).unwrap();
                let bytes = frame.into_inner().0.len();
                assert!(bytes <= frame_bytes, "{bytes} bytes in a frame of {frame_bytes}");
                let kept = copy.headers().as_ref().unwrap().inner().len();
                assert!(kept > 10, "{kept} headers in a frame of {frame_bytes}");
            }
        }
    }

    #[test]
    fn headers_count_as_many_bytes_as_their_frame_has() {
        let nested = with_headers(&[("a", text("12345")), ("b", AMQPValue::Boolean(true))]);
        let nested = AMQPValue::FieldTable(nested.headers().clone().unwrap());
        // 1 + 5 + (5 + (1 + 1 + 5 + 5) + (1 + 1 + 9))
        assert_eq!(member_bytes(&"outer".into(), &nested), 34);
    }
}
