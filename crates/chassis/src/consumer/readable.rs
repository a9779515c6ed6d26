//! From a message that lapin cannot read to one that it can: what was wrong is said in a header, the rest is kept as far as it can be
//! read. Pure and total.

use bytes::BufMut;

use amqp_publisher::frame::{
    Cursor, DELIVER, FRAME_BYTES_MIN, FRAME_OVERHEAD_BYTES, GET_OK, HEADERS_FLAG, Property, check_value,
    method_of, properties,
};

/// Header of a message that did not come as it was published: why it could not be read. Whoever has such a message puts it aside,
/// also when it comes back.
pub const UNREADABLE_HEADER: &str = "dead-letter-unreadable";
/// AMQP limits a short text to so many bytes.
const SHORT_BYTES_MAX: usize = 255;
/// Every connection takes a payload of this size.
const PAYLOAD_BYTES_MIN: usize = FRAME_BYTES_MIN - FRAME_OVERHEAD_BYTES;
/// A reason takes so many bytes at most.
const REASON_BYTES_MAX: usize = 400;
/// Flags, and a length of four bytes.
const FLAGS_BYTES: usize = 2;
const LENGTH_BYTES: usize = 4;

/// A content header in place of `payload`, with `why` in [`UNREADABLE_HEADER`]: texts with bytes that are not UTF-8 written as `\xFF`,
/// headers that cannot be read or do not fit left out. Not longer than `payload`, or than every connection takes.
/// `None` when not even the size of the body is there.
pub fn content_header(payload: &[u8], why: &str) -> Option<Vec<u8>> {
    let mut cursor = Cursor(payload);
    let head = cursor.content_head()?;
    let mut flags = HEADERS_FLAG;
    // Before and after the headers: the flags say the order.
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

/// `basic.deliver` or `basic.get-ok` in place of `payload`, with exchange and routing key in UTF-8; `None` when it is neither, or cut off.
pub fn delivery(payload: &[u8]) -> Option<Vec<u8>> {
    let mut cursor = Cursor(payload);
    let method = method_of(payload)?;
    cursor.bytes(4)?;
    if method == DELIVER {
        // The consumer's tag, which is lapin's own.
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

/// The entries of a table that can be read, as far as there is room.
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

/// Appends a short text, with the bytes that are not UTF-8 written as `\xFF`.
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

/// As much of a text as fits into so many bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
