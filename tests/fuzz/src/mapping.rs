//! Any row gives a message within AMQP's limits, or a reason. Reserved headers are outboxd's, header names are unique, the
//! content header has the predicted size, texts are unchanged, and no reason shows the payload.
//!
//! An input is text in parts, separated by zero bytes, which no text of PostgreSQL can hold: the payload's type and the limit;
//! the columns' names; the templates of exchange and routing key; configured headers (`name=template`, one a line;
//! `message.KEY=template` for the id or a property; `message.properties_from_headers=`); the row's values, `\N` for NULL.

use std::collections::BTreeSet;

use amqp_publisher::publisher::{encoding::put_publish, message as amqp};
use bytes::Bytes;
use outboxd::{
    message::{
        Column, ColumnNames, HEADERS_BYTES_MAX, HeaderValue, Mapping, Message, OutboxRow, Property,
        RESERVED_HEADERS, SHORT_STRING_BYTES_MAX, Template, Timestamp,
    },
    position::{Lsn, Position},
};

const POSITION: Position = Position { commit_lsn: Lsn(0x16_B374_D848), index: 10 };
const COMMITTED_AT: Timestamp = Timestamp(1_700_000_000_999_999);
/// Marks a payload that only the consumer may see.
const SECRET: &[u8] = b"hunter2";

/// Checks the module's property for an input.
pub fn holds(input: &[u8]) {
    let mut parts = input.split(|byte| *byte == 0);
    let Some((mapping, columns)) = table(&mut parts) else { return };
    let value = |text: &[u8]| (text != b"\\N").then(|| Bytes::copy_from_slice(text));
    let row =
        OutboxRow { position: POSITION, committed_at: COMMITTED_AT, values: parts.map(value).collect() };
    let values = row.values.clone();
    let mapper = match mapping.resolve(&columns) {
        Ok(mapper) => mapper,
        Err(error) => return assert!(!error.missing.is_empty() && !error.to_string().is_empty()),
    };
    let value_of = |name: &str| {
        let index = columns.iter().position(|column| column.name == name)?;
        values.get(index)?.as_deref()
    };
    match mapper.message(row) {
        Ok(message) => check(message, &mapping, &columns, value_of),
        Err(invalid) => {
            let payload_only = count(input, SECRET) == count(value_of("payload").unwrap_or_default(), SECRET);
            let shown = format!("{invalid} {invalid:?}");
            assert!(!payload_only || count(shown.as_bytes(), SECRET) == 0, "{shown}");
        }
    }
}

/// Mapping and columns before the row; `None` for a configuration that outboxd refuses.
fn table<'a>(parts: &mut impl Iterator<Item = &'a [u8]>) -> Option<(Mapping, Vec<Column>)> {
    let mut text = || parts.next().and_then(|part| str::from_utf8(part).ok());
    let (kind, limit) = text()?.split_once(' ')?;
    let payload_type = match kind {
        "json" => 114,
        "jsonb" => 3802,
        "bytea" => 17,
        _ => 25,
    };
    let columns = text()?.split(' ').map(|name| Column {
        name: name.to_owned(),
        type_oid: if name == "payload" { payload_type } else { 25 },
    });
    let columns = columns.collect();
    let template = |text: &str| text.parse::<Template>().ok();
    let (exchange, routing_key) = (template(text()?)?, template(text()?)?);
    let (mut id, mut headers, mut properties) = (template("{id}")?, Vec::new(), Vec::new());
    let mut properties_from_headers = false;
    for (name, text) in text()?.lines().filter_map(|line| line.split_once('=')) {
        let Some(template) = template(text) else { continue };
        match name.strip_prefix("message.") {
            Some("id") => id = template,
            Some("properties_from_headers") => properties_from_headers = true,
            Some(key) => properties.extend(Property::named(key).map(|property| (property, template))),
            None => headers.push((name.to_owned(), template)),
        }
    }
    let mapping = Mapping {
        source: "orders".into(),
        columns: ColumnNames::default(),
        id,
        exchange,
        routing_key,
        headers,
        properties,
        properties_from_headers,
        content_type: None,
        message_bytes_max: limit.parse().ok()?,
    };
    Some((mapping, columns))
}

fn check<'a>(
    mut message: Message,
    mapping: &Mapping,
    columns: &[Column],
    value_of: impl Fn(&str) -> Option<&'a [u8]>,
) {
    let text_of = |name: &str| str::from_utf8(value_of(name).expect("not NULL")).expect("UTF-8");
    if "{id}".parse::<Template>().is_ok_and(|id| id == mapping.id) {
        assert_eq!(message.id(), text_of("id"));
    }
    let sent = &*message.amqp;
    assert!(!sent.exchange.contains(['\r', '\n']), "RabbitMQ has no such exchange");
    let is_default = mapping.exchange.pieces("orders").next().is_none();
    assert_eq!(
        sent.exchange.is_empty(),
        is_default,
        "the default exchange is meant by an empty template only"
    );
    assert_eq!(put_publish(sent, true, 1, 4096, &mut Vec::new()), Ok(()), "a text is too long");

    let payload = value_of("payload").unwrap_or_default();
    match columns.iter().find(|column| column.name == "payload") {
        Some(Column { type_oid: 17, .. }) if !payload.is_empty() => {
            let hex: String = sent.body.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(format!("\\x{hex}"), String::from_utf8_lossy(payload).to_ascii_lowercase());
        }
        _ => assert_eq!(sent.body, payload),
    }
    assert!(sent.body.len() <= mapping.message_bytes_max);

    let own = [
        ("aggregate-type", text_of("aggregatetype")),
        ("aggregate-id", text_of("aggregateid")),
        ("event-type", text_of("type")),
        ("outbox-source", "orders"),
        ("outbox-position", "00000016B374D848-0000000A"),
    ];
    for ((name, value), (expected_name, expected)) in sent.headers.iter().zip(own) {
        assert_eq!((&**name, value), (expected_name, &HeaderValue::Text(expected.to_owned())));
    }
    let names: BTreeSet<&str> = sent.headers.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names.len(), sent.headers.len(), "a header twice: {:?}", sent.headers);
    assert!(names.iter().all(|name| name.len() <= SHORT_STRING_BYTES_MAX));
    assert!(!names.contains("CC") && !names.contains("BCC") && !names.contains("outbox-replayed"));
    check_row_headers(sent, mapping, value_of("headers"));

    assert_eq!(sent.header_frame_bytes(), 8 + content_header(sent).len());
    let told = message.content_header_bytes();
    message.mark_replayed();
    assert_eq!(told, content_header(&message.amqp).len(), "with room for outbox-replayed");
    assert!(told <= HEADERS_BYTES_MAX);
}

/// Checks that every member of the row's headers object is in the message, with its value, unless its name is taken.
fn check_row_headers(message: &amqp::Message, mapping: &Mapping, headers: Option<&[u8]>) {
    use serde_json::Value;
    // serde_json cannot serve as a second parser beyond 128 levels, or for a number like 1e400.
    let Ok(Value::Object(members)) = serde_json::from_slice(headers.unwrap_or(b"null")) else { return };
    for (name, expected) in &members {
        if RESERVED_HEADERS.contains(&&**name) || mapping.headers.iter().any(|(taken, _)| taken == name) {
            continue;
        }
        if mapping.properties_from_headers && Property::named(name).is_some() {
            assert!(!message.headers.iter().any(|(sent, _)| sent == name), "{name} is sent as a header, too");
            continue;
        }
        let (_, found) =
            message.headers.iter().find(|(found, _)| found == name).expect("every member is there");
        let same = match (expected, found) {
            (Value::Null, HeaderValue::Null) => true,
            (Value::Bool(expected), HeaderValue::Boolean(found)) => expected == found,
            (Value::String(expected), HeaderValue::Text(found)) => expected == found,
            (Value::Number(expected), HeaderValue::Integer(found)) => {
                expected.as_i64() == Some(*found) || (*found == 0 && expected.as_f64() == Some(0.0))
            }
            (Value::Number(expected), HeaderValue::Double(found)) => {
                expected.as_f64().is_some_and(|expected| (expected - found).abs() <= found.abs() * 1e-15)
            }
            (Value::Number(_), HeaderValue::Text(found)) => found.parse::<f64>().is_ok(),
            (Value::Array(_) | Value::Object(_), HeaderValue::Text(found)) => {
                serde_json::from_str::<Value>(found).is_ok_and(|found| found == *expected)
            }
            _ => false,
        };
        assert!(same, "{name}: {expected} became {found:?}");
    }
}

/// Payload of the content header frame, encoded by AMQP 0-9-1, sections 2.3.5.2 and 4.2.5.
fn content_header(message: &amqp::Message) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend([0, 60, 0, 0]);
    out.extend((message.body.len() as u64).to_be_bytes());
    let own = &message.properties;
    let is_set = [
        true, // content_type
        own.content_encoding.is_some(),
        true, // headers
        true, // delivery_mode
        own.priority.is_some(),
        own.correlation_id.is_some(),
        own.reply_to.is_some(),
        own.expiration.is_some(),
        true, // message_id
        true, // timestamp
        own.kind.is_some(),
        false, // user_id
        own.app_id.is_some(),
    ];
    let flags = (0..).zip(is_set).map(|(bit, is_set)| u16::from(is_set) << (15 - bit)).sum::<u16>();
    out.extend(flags.to_be_bytes());
    own.content_type.iter().for_each(|text| short(&mut out, text));
    own.content_encoding.iter().for_each(|text| short(&mut out, text));
    let mut table = Vec::new();
    for (name, value) in &message.headers {
        short(&mut table, name);
        match value {
            HeaderValue::Text(text) => long(&mut table, b"S", text.as_bytes()),
            HeaderValue::Integer(integer) => table.extend([&b"l"[..], &integer.to_be_bytes()].concat()),
            HeaderValue::Double(double) => table.extend([&b"d"[..], &double.to_be_bytes()].concat()),
            HeaderValue::Boolean(boolean) => table.extend([b't', u8::from(*boolean)]),
            HeaderValue::Null => table.push(b'V'),
        }
    }
    long(&mut out, b"", &table);
    out.push(2);
    out.extend(own.priority);
    own.correlation_id.iter().for_each(|text| short(&mut out, text));
    own.reply_to.iter().for_each(|text| short(&mut out, text));
    own.expiration.iter().for_each(|text| short(&mut out, text));
    own.message_id.iter().for_each(|text| short(&mut out, text));
    out.extend((COMMITTED_AT.0 / 1_000_000).to_be_bytes());
    own.kind.iter().for_each(|text| short(&mut out, text));
    own.app_id.iter().for_each(|text| short(&mut out, text));
    out
}

fn short(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("a short string"));
    out.extend(text.as_bytes());
}

fn long(out: &mut Vec<u8>, kind: &[u8], bytes: &[u8]) {
    out.extend(kind);
    out.extend(u32::try_from(bytes.len()).expect("a long string").to_be_bytes());
    out.extend(bytes);
}

fn count(text: &[u8], word: &[u8]) -> usize {
    text.windows(word.len()).filter(|window| *window == word).count()
}
