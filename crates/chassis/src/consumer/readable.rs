//! Conversion of a message that lapin cannot read into one that it can: a header says what was wrong, and the
//! readable parts stay. Pure and total.

use bytes::BufMut;

use amqp_publisher::frame::{
    Cursor, DELIVER, FRAME_BYTES_MIN, FRAME_OVERHEAD_BYTES, GET_OK, HEADERS_FLAG, Property, check_value,
    method_of, properties,
};

/// Header of a message that was unreadable, with the reason. A consumer moves such a message to the dead-letter
/// queue, also when it returns.
pub const UNREADABLE_HEADER: &str = "dead-letter-unreadable";
/// Longest short text in AMQP, in bytes.
const SHORT_BYTES_MAX: usize = 255;
/// Payload size that every connection accepts.
const PAYLOAD_BYTES_MIN: usize = FRAME_BYTES_MIN - FRAME_OVERHEAD_BYTES;
/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 400;
/// Sizes of the flags and of a length.
const FLAGS_BYTES: usize = 2;
const LENGTH_BYTES: usize = 4;

/// Returns a content header in place of `payload`, with `why` in [`UNREADABLE_HEADER`]. Bytes of texts that are not
/// UTF-8 become `\xFF`, headers that are unreadable or do not fit are omitted. The result is no longer than
/// `payload`, or than every connection accepts. `None` when even the body size is missing.
pub fn content_header(payload: &[u8], why: &str) -> Option<Vec<u8>> {
    let mut cursor = Cursor(payload);
    let head = cursor.content_head()?;
    let mut flags = HEADERS_FLAG;
    // Properties before and after the headers, in the order of the flags.
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut headers = None;
    for (flag, property) in properties(head.flags, cursor) {
        let out = if flag > HEADERS_FLAG { &mut before } else { &mut after };
        match property {
            Property::Fixed(bytes) => out.extend_from_slice(bytes),
            Property::Text(text) => put_short(text, out),
            Property::Headers(entries) => headers = Some(entries),
        }
        flags |= flag;
    }
    let mut reason = Vec::with_capacity(REASON_BYTES_MAX);
    put_short(UNREADABLE_HEADER.as_bytes(), &mut reason);
    put_long(cut(why, REASON_BYTES_MAX - reason.len() - 1 - LENGTH_BYTES), &mut reason);
    let others = head.fixed.len() + FLAGS_BYTES + before.len() + after.len() + LENGTH_BYTES + reason.len();
    let room = payload.len().max(PAYLOAD_BYTES_MIN).saturating_sub(others);
    let mut table = readable_entries(headers.unwrap_or_default(), room);
    table.extend_from_slice(&reason);

    let mut replaced = head.fixed.to_vec();
    replaced.put_u16(flags);
    replaced.extend_from_slice(&before);
    replaced.put_u32(table.len() as u32);
    replaced.extend_from_slice(&table);
    replaced.extend_from_slice(&after);
    Some(replaced)
}

/// Returns `basic.deliver` or `basic.get-ok` in place of `payload`, with exchange and routing key in UTF-8; `None`
/// when it is neither or cut off.
pub fn delivery(payload: &[u8]) -> Option<Vec<u8>> {
    let mut cursor = Cursor(payload);
    let method = method_of(payload)?;
    cursor.bytes(4)?;
    if method == DELIVER {
        // The consumer's tag, which lapin has chosen.
        cursor.short()?;
    } else if method != GET_OK {
        return None;
    }
    // Delivery tag and flag.
    cursor.bytes(9)?;
    let mut replaced = payload[..payload.len() - cursor.0.len()].to_vec();
    for _ in ["exchange", "routing key"] {
        put_short(cursor.short()?, &mut replaced);
    }
    replaced.extend_from_slice(cursor.0);
    Some(replaced)
}

/// Returns the readable entries of a table that fit.
fn readable_entries(entries: &[u8], room: usize) -> Vec<u8> {
    let mut cursor = Cursor(entries);
    let mut kept = Vec::new();
    while let Some(name) = cursor.short() {
        let before = cursor.0;
        let Some(value) = cursor.value() else { break };
        let value_bytes = &before[..before.len() - cursor.0.len()];
        let start = kept.len();
        put_short(name, &mut kept);
        match check_value(value, 1, "headers") {
            Ok(()) => kept.extend_from_slice(value_bytes),
            Err(why) => put_long(&format!("left out: {why}"), &mut kept),
        }
        if kept.len() > room || name == UNREADABLE_HEADER.as_bytes() {
            kept.truncate(start);
        }
    }
    kept
}

/// Appends a short text. Bytes that are not UTF-8 become `\xFF`.
fn put_short(bytes: &[u8], out: &mut Vec<u8>) {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02X}"));
        }
    }
    let text = cut(&text, SHORT_BYTES_MAX);
    out.put_u8(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a long text as a value.
fn put_long(text: &str, out: &mut Vec<u8>) {
    out.put_u8(b'S');
    out.put_u32(text.len() as u32);
    out.extend_from_slice(text.as_bytes());
}

/// Returns the part of a text that fits into this many bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
