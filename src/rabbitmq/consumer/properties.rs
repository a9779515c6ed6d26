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

/// Of a message that is buried for `reason`. Headers that take more than `headers_max` bytes are left out, for which the broker
/// would close the connection; the reason says so.
pub(super) fn with_reason(properties: &BasicProperties, reason: &str, headers_max: usize) -> BasicProperties {
    let mut reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    let mut headers = FieldTable::default();
    match properties.headers().as_ref().filter(|own| !own.inner().is_empty()) {
        Some(own) if is_larger(own, headers_max) => {
            reason
                .push_str(&format!(" (its headers were left out: they take more than {headers_max} bytes)"));
        }
        own => copy(own, &mut headers, |_| true),
    }
    headers.insert(REASON_HEADER.into(), AMQPValue::LongString(LongString::from(reason)));
    copied(properties, headers)
}

/// Of a message that goes back into its queue: without what was noted of its death. The headers themselves are lost where they
/// take more than `headers_max` bytes.
pub(super) fn put_back(properties: &BasicProperties, headers_max: usize) -> BasicProperties {
    let mut headers = FieldTable::default();
    let own = properties.headers().as_ref().filter(|own| !is_larger(own, headers_max));
    copy(own, &mut headers, |name| !WAYS.iter().any(|way| name.starts_with(way)));
    copied(properties, headers)
}

/// The shortest text of a value is not shorter than its bytes.
fn is_larger(headers: &FieldTable, bytes_max: usize) -> bool {
    format!("{headers:?}").len() > bytes_max
}

fn copy(from: Option<&FieldTable>, to: &mut FieldTable, is_wanted: impl Fn(&str) -> bool) {
    for (name, value) in from.into_iter().flat_map(|from| from.inner()) {
        if !ADDRESSES.contains(&name.as_str()) && is_wanted(name.as_str()) {
            to.insert(name.clone(), value.clone());
        }
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
