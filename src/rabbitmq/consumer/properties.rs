//! The properties of a copy: of a message that goes into its dead-letter queue, and of one that comes back.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

/// Header of a buried message: why it is in `<queue>.dead`.
pub const REASON_HEADER: &str = "dead-letter-reason";
/// A reason longer than this many characters is cut.
const REASON_CHARS_MAX: usize = 1000;
/// `delivery_mode` of a message that the broker writes to disk.
const PERSISTENT: u8 = 2;
/// Headers by which a publisher addresses more queues (RabbitMQ's sender-selected distribution).
const ADDRESSES: [&str; 2] = ["CC", "BCC"];
/// Headers that tell of a message's way into a dead-letter queue; those of the broker begin as listed.
const WAYS: [&str; 6] =
    [REASON_HEADER, "x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count"];

/// Of a message that is buried for `reason`. The largest headers are left out as far as all of them take more than `headers_max`
/// bytes, for which the broker would close the connection; the reason says so.
pub(super) fn with_reason(properties: &BasicProperties, reason: &str, headers_max: usize) -> BasicProperties {
    let mut reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    let (mut headers, left_out) = copy(properties.headers().as_ref(), headers_max, |_| true);
    if left_out > 0 {
        reason.push_str(&format!(
            " ({left_out} of its headers were left out, the largest: together they take more than {headers_max} bytes)"
        ));
    }
    headers.insert(REASON_HEADER.into(), AMQPValue::LongString(LongString::from(reason)));
    copied(properties, headers)
}

/// Of a message that goes back into its queue: without what was noted of its death. The largest headers are lost as far as all of
/// them take more than `headers_max` bytes.
pub(super) fn put_back(properties: &BasicProperties, headers_max: usize) -> BasicProperties {
    let is_own = |name: &str| !WAYS.iter().any(|way| name.starts_with(way));
    copied(properties, copy(properties.headers().as_ref(), headers_max, is_own).0)
}

/// Those that are wanted, the small ones first, which are a relay's own, as far as they fit; and how many did not.
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

/// Bytes of a table's member in a frame: a byte for the name's length, the name, the value.
fn member_bytes(name: &ShortString, value: &AMQPValue) -> usize {
    1 + name.as_str().len() + value_bytes(value)
}

/// Bytes of a value in a frame, at most: a byte for its type, four for a length.
fn value_bytes(value: &AMQPValue) -> usize {
    const HEAD: usize = 5;
    /// Of numbers and times.
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

/// The message's properties but for those that concern its way and not itself: who sent it (`user_id`, which the broker compares with
/// the sender, and that is us now), when to forget it (`expiration`), and where else to put it.
fn copied(properties: &BasicProperties, headers: FieldTable) -> BasicProperties {
    let mut kept = BasicProperties::default().with_headers(headers).with_delivery_mode(PERSISTENT);
    type Text =
        (fn(&BasicProperties) -> &Option<ShortString>, fn(BasicProperties, ShortString) -> BasicProperties);
    let texts: [Text; 7] = [
        (BasicProperties::message_id, BasicProperties::with_message_id),
        (BasicProperties::kind, BasicProperties::with_type),
        (BasicProperties::content_type, BasicProperties::with_content_type),
        (BasicProperties::content_encoding, BasicProperties::with_content_encoding),
        (BasicProperties::correlation_id, BasicProperties::with_correlation_id),
        (BasicProperties::reply_to, BasicProperties::with_reply_to),
        (BasicProperties::app_id, BasicProperties::with_app_id),
    ];
    for (text, with_text) in texts {
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
        let fits = with_reason(&message, "why", 65_536);
        assert_eq!(fits.headers().as_ref().unwrap().inner().len(), 4, "40 kB are less than half a frame");
        let buried = with_reason(&message, "why", 30_000);
        let headers = buried.headers().as_ref().unwrap();
        assert!(!headers.contains_key("x-exception-stacktrace"));
        let reason = headers.inner().get(REASON_HEADER).unwrap().as_long_string().unwrap().to_string();
        assert!(reason.starts_with("why (1 of its headers were left out"), "{reason}");
        let back = put_back(&buried, 30_000);
        let headers = back.headers().as_ref().unwrap();
        assert_eq!(headers.inner().get("outbox-source"), Some(&source.1));
        assert_eq!(headers.inner().len(), 2, "{headers:?}");
    }

    #[test]
    fn headers_count_as_many_bytes_as_their_frame_has() {
        let nested = with_headers(&[("a", text("12345")), ("b", AMQPValue::Boolean(true))]);
        let nested = AMQPValue::FieldTable(nested.headers().clone().unwrap());
        // 1 + 5 + (5 + (1 + 1 + 5 + 5) + (1 + 1 + 9))
        assert_eq!(member_bytes(&"outer".into(), &nested), 34);
    }
}
