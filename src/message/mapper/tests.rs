#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::{
    message::{Column, ColumnNames, Mapping, OptionalColumn, Template, Timestamp},
    position::{Lsn, Position},
};
use proptest::prelude::*;

const POSITION: Position = Position { commit_lsn: Lsn(0x16_B374_D848), index: 10 };
const TEXT: u32 = 25;
const UUID: u32 = 2950;

fn template(text: &str) -> Template {
    text.parse().unwrap()
}

fn mapping() -> Mapping {
    Mapping {
        source: "orders".into(),
        columns: ColumnNames::default(),
        id: template("{id}"),
        exchange: template("{aggregate_type}.events"),
        routing_key: template("{event_type}"),
        headers: vec![],
        properties: Vec::new(),
        properties_from_headers: false,
        content_type: None,
        message_bytes_max: 1000,
    }
}

fn columns(payload_type: u32) -> Vec<Column> {
    let column = |name: &str, type_oid| Column { name: name.into(), type_oid };
    vec![
        column("id", UUID),
        column("aggregatetype", TEXT),
        column("aggregateid", TEXT),
        column("type", TEXT),
        column("payload", payload_type),
        column("headers", JSONB),
        column("tenant", TEXT),
    ]
}

/// Values in the order of `columns`.
fn row(values: [Option<&[u8]>; 7]) -> OutboxRow {
    let values = values.into_iter().map(|value| value.map(Bytes::copy_from_slice)).collect();
    OutboxRow { position: POSITION, committed_at: Timestamp(1), values }
}

fn valid() -> OutboxRow {
    row([Some(b"id-1"), Some(b"Order"), Some(b"42"), Some(b"Created"), Some(b"{}"), None, Some(b"acme")])
}

fn with(index: usize, value: Option<&[u8]>) -> OutboxRow {
    let mut row = valid();
    row.values[index] = value.map(Bytes::copy_from_slice);
    row
}

fn map(mapping: &Mapping, row: OutboxRow) -> Result<Message, InvalidReason> {
    mapping.resolve(&columns(JSONB)).unwrap().message(row).map_err(|invalid| invalid.reason)
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a HeaderValue> {
    let mut found = message.amqp.headers.iter().filter(|(header, _)| header == name).map(|(_, value)| value);
    let first = found.next();
    assert!(found.next().is_none(), "{name} is there twice");
    first
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::Text(value.into())
}

#[test]
fn a_row_becomes_the_message_of_the_contract() {
    let mut mapping = mapping();
    mapping.headers = vec![("tenant".into(), template("{column:tenant}/{source}"))];
    let message = map(&mapping, with(5, Some(br#"{"trace": "t1", "attempt": 1}"#))).unwrap();
    assert_eq!(message.position, POSITION);
    assert_eq!(message.committed_at, Timestamp(1));
    assert_eq!(message.aggregate, AggregateKey::new("Order", "42"));
    let sent = &message.amqp;
    assert_eq!((&*sent.exchange, &*sent.routing_key), ("Order.events", "Created"));
    assert_eq!((message.id(), sent.properties.kind.as_deref()), ("id-1", Some("Created")));
    assert_eq!(sent.properties.content_type.as_deref(), Some("application/json"));
    assert_eq!((sent.properties.timestamp, sent.properties.app_id.as_deref()), (Some(0), Some("outboxd")));
    assert_eq!(
        sent.headers,
        [
            ("aggregate-type".into(), text("Order")),
            ("aggregate-id".into(), text("42")),
            ("event-type".into(), text("Created")),
            ("outbox-source".into(), text("orders")),
            ("outbox-position".into(), text("00000016B374D848-0000000A")),
            ("tenant".into(), text("acme/orders")),
            ("attempt".into(), HeaderValue::Integer(1)),
            ("trace".into(), text("t1")),
        ]
    );
    assert_eq!(sent.body, "{}");
}

#[test]
fn the_body_is_the_payloads_bytes() {
    for (type_oid, payload, content_type, body) in [
        (JSON, Some(&b"{ \"a\" :1}"[..]), "application/json", &b"{ \"a\" :1}"[..]),
        (JSONB, None, "application/json", b""),
        (TEXT, Some(b"\\x00"), "text/plain", b"\\x00"),
        (TEXT, Some("ü".as_bytes()), "text/plain", "ü".as_bytes()),
        (BYTEA, Some(b"\\x"), "application/octet-stream", b""),
        (BYTEA, Some(b"\\x00fF5c"), "application/octet-stream", b"\x00\xff\\"),
    ] {
        let message = mapping().resolve(&columns(type_oid)).unwrap().message(with(4, payload)).unwrap();
        let sent = (message.amqp.properties.content_type.as_deref(), &*message.amqp.body);
        assert_eq!(sent, (Some(content_type), body), "type {type_oid}");
    }
    // A SQL_ASCII database stores any bytes, and nothing tells their encoding.
    for type_oid in [TEXT, JSON, JSONB] {
        let mapper = mapping().resolve(&columns(type_oid)).unwrap();
        let invalid = mapper.message(with(4, Some(b"\xff\xfe"))).unwrap_err();
        assert_eq!(invalid.reason, InvalidReason::NotUtf8 { column: "payload".into() });
    }
    let configured = Mapping { content_type: Some("application/avro".into()), ..mapping() };
    let sent = map(&configured, valid()).unwrap().amqp;
    assert_eq!(sent.properties.content_type.as_deref(), Some("application/avro"));
}

#[test]
fn bytea_in_the_escape_format_is_refused_with_the_cure() {
    for payload in ["", "abc", "\\\\x00", "\\000", "\\x0", "\\x0g", "\\x+1"] {
        let mapper = mapping().resolve(&columns(BYTEA)).unwrap();
        let invalid = mapper.message(with(4, Some(payload.as_bytes()))).unwrap_err();
        assert_eq!(invalid.reason, InvalidReason::ByteaNotHex { column: "payload".into() }, "{payload}");
        assert!(invalid.to_string().contains("bytea_output = 'hex'"));
    }
}

#[test]
fn columns_that_every_message_needs_must_not_be_null() {
    for index in 0..4 {
        let column = columns(JSONB)[index].name.clone();
        assert_eq!(map(&mapping(), with(index, None)), Err(InvalidReason::NullColumn { column }));
        let column = columns(JSONB)[index].name.clone();
        assert_eq!(map(&mapping(), with(index, Some(b"\xff"))), Err(InvalidReason::NotUtf8 { column }));
    }
}

#[test]
fn a_missing_value_stops_a_route_and_leaves_a_header_out() {
    let mut mapping = mapping();
    mapping.headers = vec![
        ("tenant".into(), template("{column:tenant}")),
        ("region".into(), template("eu-{header:region}")),
    ];
    let message = map(&mapping, with(6, None)).unwrap();
    assert_eq!((header(&message, "tenant"), header(&message, "region")), (None, None));
    let message = map(&mapping, with(5, Some(br#"{"region": 7}"#))).unwrap();
    assert_eq!(header(&message, "region"), Some(&text("eu-7")));

    mapping.exchange = template("{column:tenant}");
    let missing =
        |part, placeholder: &str| InvalidReason::MissingValue { part, placeholder: placeholder.into() };
    assert_eq!(map(&mapping, with(6, None)), Err(missing("exchange", "{column:tenant}")));
    mapping.routing_key = template("a.{header:region}");
    assert_eq!(map(&mapping, valid()), Err(missing("routing key", "{header:region}")));
    assert_eq!(
        map(&mapping, with(5, Some(br#"{"region": null}"#))),
        Err(missing("routing key", "{header:region}"))
    );
    assert_eq!(map(&mapping, with(5, Some(br#"{"region": "west"}"#))).unwrap().amqp.routing_key, "a.west");
}

#[test]
fn reserved_headers_win_over_configured_ones_and_those_over_the_rows() {
    let mut mapping = mapping();
    mapping.headers =
        vec![("outbox-source".into(), template("lie")), ("tenant".into(), template("{column:tenant}"))];
    let lies = RESERVED_HEADERS.iter().chain(&["tenant"]).map(|name| format!(r#""{name}": "lie""#));
    let object = format!("{{{}}}", lies.collect::<Vec<_>>().join(","));
    let message = map(&mapping, with(5, Some(object.as_bytes()))).unwrap();
    assert_eq!(message.amqp.headers.len(), 6);
    assert!(message.amqp.headers.iter().all(|(_, value)| *value != text("lie")));
    assert_eq!(header(&message, "tenant"), Some(&text("acme")));
    assert_eq!(header(&message, "outbox-replayed"), None);
}

#[test]
fn the_id_is_a_template() {
    let mapping = Mapping { id: template("{source}-{id}"), ..mapping() };
    assert_eq!(map(&mapping, valid()).unwrap().id(), "orders-id-1");
    let missing = map(&mapping, with(0, None)).unwrap_err();
    assert_eq!(missing, InvalidReason::MissingValue { part: "id", placeholder: "{id}".into() });
    assert!(missing.to_string().ends_with("or change message.id"), "{missing}");
    let of_another_column = Mapping { id: template("{column:tenant}"), ..mapping };
    assert_eq!(map(&of_another_column, with(0, None)).unwrap().id(), "acme");
}

#[test]
fn ids_of_numbers_are_told_from_others() {
    let columns =
        |id| vec![Column { name: "id".into(), type_oid: id }, Column { name: "number".into(), type_oid: 20 }];
    for (id, type_oid, expected) in [
        ("{id}", 20, true),
        ("{id}", 1700, true),
        ("{id}", UUID, false),
        ("{id}", TEXT, false),
        ("orders-{id}", 23, true),
        ("{source}-{id}", 20, false),
        ("{column:number}", UUID, true),
        ("{aggregate_id}", 20, false),
    ] {
        let mapping = Mapping { id: template(id), ..mapping() };
        assert_eq!(mapping.ids_are_numbers(&columns(type_oid)), expected, "{id} of type {type_oid}");
    }
}

#[test]
fn properties_come_from_templates_and_are_left_out_without_a_value() {
    let own = |text: &str| {
        let all = Property::ALL.into_iter();
        let templates = all.map(|property| (property, template(&text.replace('*', property.key()))));
        Mapping { properties: templates.collect(), ..mapping() }
    };
    let headers = br#"{"priority": 7, "expiration_ms": "060000", "correlation_id": "c", "reply_to": "r",
        "content_encoding": "gzip", "type": "t", "app_id": "a"}"#;
    let expected = Properties {
        priority: Some(7),
        expiration: Some("60000".into()),
        correlation_id: Some("c".into()),
        reply_to: Some("r".into()),
        content_encoding: Some("gzip".into()),
        kind: Some("t".into()),
        app_id: Some("a".into()),
        ..of_every_message()
    };
    let message = map(&own("{header:*}"), with(5, Some(headers))).unwrap();
    assert_eq!(message.amqp.properties, expected);
    assert_eq!(header(&message, "priority"), Some(&HeaderValue::Integer(7)), "it is a header, too");
    assert_eq!(header(&message, "event-type"), Some(&text("Created")));

    for nothing in [own("{header:*}"), own("")] {
        let sent = map(&nothing, valid()).unwrap().amqp;
        assert_eq!(sent.properties, Properties { kind: None, app_id: None, ..of_every_message() });
    }
    assert_eq!(map(&mapping(), valid()).unwrap().amqp.properties, of_every_message());
}

/// Properties that every message of [`valid`] has.
fn of_every_message() -> Properties {
    Properties {
        content_type: Some("application/json".into()),
        message_id: Some("id-1".into()),
        timestamp: Some(0),
        kind: Some("Created".into()),
        app_id: Some("outboxd".into()),
        ..Properties::default()
    }
}

#[test]
fn a_value_that_is_none_of_the_propertys_makes_the_row_invalid() {
    let priority = vec![(Property::Priority, template("{column:tenant}"))];
    let mapping = Mapping { properties: priority, ..mapping() };
    let invalid = map(&mapping, valid()).unwrap_err();
    assert!(matches!(invalid, InvalidReason::Property { property: "priority", .. }), "{invalid}");
    assert!(
        invalid.to_string().contains("from 0 to 255") && !invalid.to_string().contains("acme"),
        "{invalid}"
    );
    assert!(invalid.to_string().ends_with("or change message.priority"), "{invalid}");
    assert_eq!(map(&mapping, with(6, Some(b"9"))).unwrap().amqp.properties.priority, Some(9));
    assert_eq!(map(&mapping, with(6, None)).unwrap().amqp.properties, of_every_message());
}

#[test]
fn the_rows_headers_set_properties_where_no_template_does_and_are_not_sent_then() {
    let mut mapping = Mapping { properties_from_headers: true, ..mapping() };
    mapping.properties = vec![(Property::CorrelationId, template("{column:tenant}"))];
    let headers = Some(&br#"{"priority": 200, "correlation_id": "lie", "type": "t", "app_id": "", "reply_to": null, "h": 1}"#[..]);
    let message = map(&mapping, with(5, headers)).unwrap();
    let own = &message.amqp.properties;
    assert_eq!(
        (own.priority, own.correlation_id.as_deref(), own.reply_to.as_deref()),
        (Some(200), Some("acme"), None)
    );
    assert_eq!((own.kind.as_deref(), own.app_id.as_deref()), (Some("t"), None));
    let sent: Vec<_> = message.amqp.headers.iter().skip(5).map(|(name, _)| &**name).collect();
    assert_eq!(sent, ["h"]);
    let mut without = with(5, headers);
    without.values[6] = None;
    let sent = map(&mapping, without).unwrap().amqp;
    assert_eq!(sent.properties.correlation_id.as_deref(), Some("lie"));
    let invalid = map(&mapping, with(5, Some(br#"{"expiration_ms": 1.5}"#))).unwrap_err().to_string();
    assert!(invalid.contains("a valid header expiration_ms (message.properties_from_headers)"), "{invalid}");
}

#[test]
fn headers_that_are_no_object_or_mean_routing_are_refused() {
    let column = || "headers".to_owned();
    assert_eq!(map(&mapping(), with(5, Some(b"null"))).unwrap().amqp.headers.len(), 5);
    assert_eq!(
        map(&mapping(), with(5, Some(b"[1]"))),
        Err(InvalidReason::HeadersNotObject { column: column() })
    );
    assert_eq!(map(&mapping(), with(5, Some(b"{"))), Err(InvalidReason::HeadersNotJson { column: column() }));
    for name in ["CC", "BCC"] {
        let object = format!(r#"{{"{name}": "q"}}"#);
        assert_eq!(
            map(&mapping(), with(5, Some(object.as_bytes()))),
            Err(InvalidReason::RoutingHeader { name: name.into() })
        );
    }
}

#[test]
fn short_strings_hold_255_bytes_not_characters() {
    // 127 two-byte characters and one of one byte.
    let fits = "é".repeat(127) + "x";
    let long = "é".repeat(128);
    let mapping = Mapping {
        exchange: template("{column:tenant}"),
        routing_key: template("{aggregate_id}"),
        ..mapping()
    };
    for (index, part) in [(0, "message_id"), (3, "event type"), (6, "exchange"), (2, "routing key")] {
        assert!(map(&mapping, with(index, Some(fits.as_bytes()))).is_ok(), "{part}");
        let error = map(&mapping, with(index, Some(long.as_bytes())));
        assert_eq!(error, Err(InvalidReason::TooLong { part, bytes: 256 }));
    }
    let named = |name: &str| map(&mapping, with(5, Some(format!(r#"{{"{name}": 1}}"#).as_bytes())));
    assert_eq!(header(&named(&fits).unwrap(), &fits), Some(&HeaderValue::Integer(1)));
    assert_eq!(named(&long), Err(InvalidReason::TooLong { part: "name of a header", bytes: 256 }));
}

#[test]
fn an_exchange_that_rabbitmq_cannot_have_makes_the_row_invalid() {
    let routed = |template_text: &str, value: &[u8]| {
        let mapping = Mapping { exchange: template(template_text), ..mapping() };
        map(&mapping, with(6, Some(value))).map(|message| message.amqp.exchange.clone())
    };
    assert_eq!(routed("{column:tenant}", b""), Err(InvalidReason::EmptyExchange));
    assert_eq!(routed("", b"any"), Ok(String::new()), "the default exchange, by intent");
    assert_eq!(routed("{column:tenant}.e", b""), Ok(".e".into()));
    for broken in [&b"a\nb"[..], b"\r", b"a\r\n"] {
        assert_eq!(routed("{column:tenant}", broken), Err(InvalidReason::LineBreakInExchange));
    }
    // RabbitMQ keeps these, and routing keys as they are.
    assert_eq!(routed("{column:tenant}", "a\tb\u{85}\u{2028}".as_bytes()), Ok("a\tb\u{85}\u{2028}".into()));
    let mapping = Mapping { routing_key: template("{column:tenant}"), ..mapping() };
    assert_eq!(
        map(&mapping, with(6, Some(b"a\r\n"))).map(|message| message.amqp.routing_key.clone()),
        Ok("a\r\n".into())
    );
}

#[test]
fn body_and_headers_have_limits() {
    let body = |bytes: usize| map(&mapping(), with(4, Some(&vec![b'x'; bytes])));
    assert_eq!(body(1000).unwrap().amqp.body.len(), 1000);
    assert_eq!(body(1001), Err(InvalidReason::BodyTooLarge { bytes: 1001, bytes_max: 1000 }));

    let big = |bytes: usize| {
        map(&mapping(), with(5, Some(format!(r#"{{"h": "{}"}}"#, "x".repeat(bytes)).as_bytes())))
    };
    let spare = HEADERS_BYTES_MAX - big(0).unwrap().content_header_bytes();
    assert_eq!(big(spare).unwrap().content_header_bytes(), HEADERS_BYTES_MAX);
    assert_eq!(big(spare + 1), Err(InvalidReason::HeadersTooLarge));
}

#[test]
fn an_invalid_row_shows_where_and_what_next_but_no_payload() {
    let mapper = Mapping { message_bytes_max: 3, ..mapping() }.resolve(&columns(JSONB)).unwrap();
    let shown = mapper.message(with(4, Some(b"SECRET"))).unwrap_err().to_string();
    assert!(shown.contains("00000016B374D848-0000000A") && shown.contains("id-1"), "{shown}");
    assert!(shown.contains("delivery.message_bytes_max") && !shown.contains("SECRET"), "{shown}");
    let mut short = valid();
    short.values.clear();
    assert_eq!(
        mapper.message(short).unwrap_err().reason,
        InvalidReason::ColumnCount { columns: 7, values: 0 }
    );
}

#[test]
fn resolving_names_every_missing_column_and_the_nearest() {
    let mut mapping = mapping();
    mapping.columns.aggregate_type = "aggregate_type".into();
    mapping.columns.headers = OptionalColumn::Required("meta".into());
    // The sequence column counts only where rows are read from the table.
    mapping.columns.sequence = OptionalColumn::Required("seq".into());
    mapping.routing_key = template("{aggregate_type}.{column:tennant}");
    let error = mapping.resolve(&columns(JSONB)).unwrap_err();
    let missing: Vec<_> =
        error.missing.iter().map(|m| (&*m.name, &*m.wanted_by, m.nearest.as_deref())).collect();
    assert_eq!(
        missing,
        [
            ("aggregate_type", "outbox.columns.aggregate_type", Some("aggregatetype")),
            ("meta", "outbox.columns.headers", None),
            ("tennant", "{column:tennant}", Some("tenant")),
        ]
    );
    let shown = error.to_string();
    assert!(
        shown.contains("did you mean \"aggregatetype\"?") && shown.contains("payload, headers, tenant"),
        "{shown}"
    );
}

#[test]
fn the_headers_column_is_used_only_where_it_is_wanted() {
    let object = Some(&br#"{"h": 1}"#[..]);
    let mut mapping = mapping();
    mapping.columns.headers = OptionalColumn::Off;
    assert_eq!(map(&mapping, with(5, object)).unwrap().amqp.headers.len(), 5);
    mapping.exchange = template("{header:h}");
    assert!(mapping.resolve(&columns(JSONB)).unwrap_err().to_string().contains("switched off"));
    mapping.columns.headers = OptionalColumn::IfPresent("meta".into());
    assert_eq!(mapping.resolve(&columns(JSONB)).unwrap_err().missing[0].wanted_by, "{header:h}");
    mapping.columns.headers = OptionalColumn::Required("meta".into());
    let missing = mapping.resolve(&columns(JSONB)).unwrap_err().missing;
    assert_eq!((missing.len(), &*missing[0].wanted_by), (1, "outbox.columns.headers"));
}

#[test]
fn size_grows_with_what_the_message_holds() {
    let small = map(&mapping(), valid()).unwrap().size();
    let body = map(&mapping(), with(4, Some(&[b'x'; 502]))).unwrap().size();
    assert_eq!(body - small, 500);
    assert!(map(&mapping(), with(5, Some(br#"{"h": null}"#))).unwrap().size() > small);
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_filter("finite", |double| double.is_finite()).prop_map(Into::into),
        "\\PC{0,20}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map(".{0,8}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_header_keeps_its_meaning(value in json()) {
        let object = serde_json::json!({ "h": value }).to_string();
        let message = map(&mapping(), with(5, Some(object.as_bytes()))).unwrap();
        let back = match header(&message, "h").unwrap() {
            HeaderValue::Null => serde_json::Value::Null,
            HeaderValue::Boolean(boolean) => (*boolean).into(),
            HeaderValue::Integer(integer) => (*integer).into(),
            HeaderValue::Double(double) => (*double).into(),
            HeaderValue::Text(text) if value.is_string() => text.clone().into(),
            // serde_json may read a double one digit off, so texts are compared.
            HeaderValue::Text(text) => {
                prop_assert_eq!(text, &value.to_string());
                return Ok(());
            }
        };
        prop_assert_eq!(back, value);
    }

    #[test]
    fn any_row_gives_a_message_within_the_limits_or_a_reason(
        values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..300)), 7),
    ) {
        let values: Vec<_> = values.into_iter().map(|value| value.map(Bytes::from)).collect();
        let payload = values[4].clone().unwrap_or_default();
        let row = OutboxRow { position: POSITION, committed_at: Timestamp(0), values };
        let properties = Property::ALL.map(|property| (property, template("{column:tenant}")));
        let mapping = Mapping { properties: properties.into(), properties_from_headers: true, ..mapping() };
        if let Ok(message) = map(&mapping, row) {
            let mut frames = Vec::new();
            let fits = amqp_publisher::publisher::encoding::put_publish(&message.amqp, true, 1, 4096, &mut frames);
            prop_assert_eq!(fits, Ok(()), "every text fits");
            prop_assert_eq!(&message.amqp.body, &payload);
        }
    }

    #[test]
    fn bytea_comes_back_as_it_was(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mapper = mapping().resolve(&columns(BYTEA)).unwrap();
        let message = mapper.message(with(4, Some(format!("\\x{hex}").as_bytes()))).unwrap();
        prop_assert_eq!(&*message.amqp.body, &*bytes);
    }
}
