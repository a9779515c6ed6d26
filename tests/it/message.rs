//! The parts of a message, for every payload type, from the backlog and from the stream.

use lapin::{message::Delivery, types::AMQPValue};

use crate::{
    inbox::{Inbox, header, text, text_header},
    stage::{PATIENCE, Stage, until_state},
};

/// An order with every kind of header. Reserved and configured headers override the row's own.
const ORDER: &str = r#"INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, tenant_id, headers) VALUES
    ('00000000-0000-4000-8000-000000000001', 'Order', 'ä 7', 'OrderCreated', '{"b": [1, 2.50], "a": "Grüße"}', 'acme',
     '{"s": "x", "i": -3, "d": 0.5, "t": true, "f": false, "n": null, "o": {"k": [1, null]}, "big": 123456789012345678901,
       "tenant": "forged", "region": "eu", "aggregate-id": "forged", "aggregate-type": "forged", "event-type": "forged",
       "outbox-source": "forged", "outbox-position": "forged", "outbox-replayed": true}')"#;

fn long(text: &str) -> Option<AMQPValue> {
    Some(AMQPValue::LongString(text.into()))
}

fn assert_order(delivery: &Delivery, committed: std::ops::RangeInclusive<u64>) {
    assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("Order.events", "OrderCreated"));
    assert_eq!(text(delivery), r#"{"a": "Grüße", "b": [1, 2.50]}"#, "as PostgreSQL writes jsonb");
    let properties = &delivery.properties;
    let id = "00000000-0000-4000-8000-000000000001";
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id);
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "OrderCreated");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "outboxd");
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert!(committed.contains(&properties.timestamp().unwrap()), "{properties:?} in {committed:?}");
    assert!(properties.expiration().is_none() && properties.priority().is_none());
    assert!(properties.reply_to().is_none() && properties.correlation_id().is_none());
    for (name, value) in [
        ("aggregate-type", long("Order")),
        ("aggregate-id", long("ä 7")),
        ("event-type", long("OrderCreated")),
        ("outbox-source", long("orders")),
        ("tenant", long("acme")),
        ("greeting", long("orders says {hello} to ä 7")),
        ("region", long("eu")),
        ("s", long("x")),
        ("i", Some(AMQPValue::LongLongInt(-3))),
        ("d", Some(AMQPValue::Double(0.5))),
        ("t", Some(AMQPValue::Boolean(true))),
        ("f", Some(AMQPValue::Boolean(false))),
        ("n", Some(AMQPValue::Void)),
        ("o", long(r#"{"k": [1, null]}"#)),
        ("big", long("123456789012345678901")),
        ("outbox-replayed", None),
    ] {
        assert_eq!(header(delivery, name), value, "{name}");
    }
    position(delivery);
}

/// The position, after a check of its format.
fn position(delivery: &Delivery) -> String {
    let position = text_header(delivery, "outbox-position");
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    let (lsn, index) = position.split_once('-').expect("a hyphen");
    assert!(lsn.len() == 16 && index.len() == 8 && hex(lsn) && hex(index), "{position}");
    position
}

#[tokio::test]
async fn every_part_is_as_promised_from_the_backlog_and_from_the_stream() {
    let mut stage = Stage::shared("message").await;
    let client = stage.client().await;
    stage.sql(&format!("ALTER TABLE outbox ADD tenant_id text; {ORDER}; DELETE FROM outbox; {ORDER}")).await;
    stage.source = "message.headers = { tenant = \"{column:tenant_id}\", \
                    greeting = \"{source} says {{hello}} to {aggregate_id}\", region = \"{header:region}\" }"
        .into();
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let clock = async || {
        let now =
            client.query_one("SELECT floor(extract(epoch FROM clock_timestamp()))::int8", &[]).await.unwrap();
        u64::try_from(now.get::<_, i64>(0)).unwrap()
    };

    let before = clock().await;
    let mut daemon = stage.relay_as_printed_role().await;
    let backlogged = inbox.next().await;
    assert_order(&backlogged, before..=clock().await);
    stage.sql("DELETE FROM outbox").await;
    let before = clock().await;
    stage.sql(ORDER).await;
    let streamed = inbox.next().await;
    assert_order(&streamed, before..=clock().await);
    assert!(position(&backlogged) < position(&streamed));

    // Without tenant, headers and payload; then several rows of one transaction and some of the next.
    stage
        .sql(
            "INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('Order', '', 'E');
             BEGIN; INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
                    SELECT 'Order', n, 'E', to_jsonb(n) FROM generate_series(1, 20) n; COMMIT;
             INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', '1', 'E', '21')",
        )
        .await;
    let empty = inbox.next().await;
    assert_eq!((empty.data.len(), empty.properties.content_type().is_some()), (0, true));
    assert_eq!((header(&empty, "tenant"), header(&empty, "region")), (None, None));
    assert_eq!(text_header(&empty, "aggregate-id"), "");
    let mut last = position(&empty);
    let mut lsns = vec![last[..16].to_owned()];
    for n in 1..=21 {
        let delivery = inbox.next().await;
        assert_eq!(text(&delivery), n.to_string());
        let position = position(&delivery);
        assert!(last < position, "{last} then {position}");
        lsns.push(position[..16].to_owned());
        last = position;
    }
    lsns.dedup();
    // batch_execute sends one query, but BEGIN and COMMIT in it make separate transactions.
    assert!(lsns.len() >= 2, "{lsns:?}");
    inbox.stays_empty().await;
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// Each payload type with its bytes and its content type, and other templates.
#[tokio::test]
async fn payloads_of_every_type_are_sent_byte_for_byte() {
    let mut stage = Stage::shared("payloads").await;
    let types =
        ["text", "bytea", "json", "jsonb", "varchar", "xml", "text_domain", "bytea_domain", "json_domain"];
    stage
        .sql(
            "CREATE DOMAIN json_domain AS json CHECK (VALUE IS NOT NULL); CREATE DOMAIN text_domain AS text;
             CREATE DOMAIN inner_domain AS bytea; CREATE DOMAIN bytea_domain AS inner_domain",
        )
        .await;
    let mut exchanges = Vec::new();
    for name in types {
        stage
            .sql(&format!(
                "CREATE TABLE of_{name} (id int, aggregatetype text, aggregateid text, type text, payload {name})"
            ))
            .await;
        stage.source += &format!(
            "[sources.{name}]\npostgres.url = \"{}\"\npostgres.slot = \"{}_{name}\"\noutbox.table = \"of_{name}\"\n\
             message.exchange = \"{{source}}-{{column:id}}\"\nmessage.routing_key = \"{{aggregate_type}}.{{aggregate_id}}\"\n",
            stage.postgres_url,
            stage.slot()
        );
        if name == "xml" {
            stage.source += "message.content_type = \"application/xml\"\n";
        }
        exchanges.push(format!("{name}-1"));
    }
    let odd = "Gr\u{fc}\u{df}e\n\t\\x41 \\ \u{1f600} \u{7f}\u{1} ";
    let all_bytes: Vec<u8> = (0..=255).collect();
    let hex: String = all_bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let json = "{ \"b\":1,\n  \"a\" : 2.50, \"b\":1}";
    let expected: Vec<(&str, String, Vec<u8>, &str)> = vec![
        ("text", format!("'{odd}'"), odd.into(), "text/plain"),
        ("bytea", format!("'\\x{hex}'"), all_bytes.clone(), "application/octet-stream"),
        ("json", format!("'{json}'"), json.into(), "application/json"),
        ("jsonb", format!("'{json}'"), br#"{"a": 2.50, "b": 1}"#.to_vec(), "application/json"),
        ("varchar", "''".into(), Vec::new(), "text/plain"),
        ("xml", "'<a>1</a>'".into(), b"<a>1</a>".to_vec(), "application/xml"),
        ("text_domain", format!("'{odd}'"), odd.into(), "text/plain"),
        ("bytea_domain", format!("'\\x{hex}'"), all_bytes, "application/octet-stream"),
        ("json_domain", format!("'{json}'"), json.into(), "application/json"),
    ];
    let exchanges: Vec<&str> = exchanges.iter().map(String::as_str).collect();
    let mut inbox = stage.inbox(&exchanges).await;
    let insert: String = expected
        .iter()
        .map(|(name, literal, ..)| format!("INSERT INTO of_{name} VALUES (1, 'A', '9', 'E', {literal});"))
        .collect();
    // One insert for the backlog, one for the stream.
    stage.sql(&insert).await;
    let daemon = stage.relay_as_printed_role().await;
    for round in ["backlog", "stream"] {
        let mut seen = Vec::new();
        for _ in &expected {
            let delivery = inbox.next().await;
            let name = text_header(&delivery, "outbox-source");
            let (_, _, body, content_type) =
                expected.iter().find(|(expected, ..)| *expected == name).expect(&name);
            assert_eq!(delivery.data, *body, "{round} {name}");
            let found = delivery.properties.content_type().as_ref().unwrap().as_str();
            assert_eq!(found, *content_type, "{round} {name}");
            assert_eq!(delivery.exchange.as_str(), format!("{name}-1"));
            assert_eq!(delivery.routing_key.as_str(), "A.9");
            seen.push(name);
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), expected.len(), "{round}: {seen:?}");
        if round == "backlog" {
            stage.sql(&insert).await;
        }
    }
    inbox.stays_empty().await;
    drop(daemon);
}

/// A payload up to `message_bytes_max` passes. A larger one halts the source after the rows before it, with the reason. A higher
/// limit lets the source continue from there.
#[tokio::test]
async fn a_payload_passes_up_to_the_limit_and_halts_above_it() {
    const MAX: usize = 1_100_000;
    let mut stage = Stage::shared("sizes").await;
    stage.sql("ALTER TABLE outbox ALTER payload TYPE text").await;
    stage.source = format!("delivery.message_bytes_max = {MAX}\n");
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let mut daemon = stage.relay_as_printed_role().await;
    let insert = async |id: &str, bytes: usize| {
        stage
            .sql(&format!(
                "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', '{id}', 'E', repeat('x', {bytes}))"
            ))
            .await;
    };
    for bytes in [1 << 20, MAX - 1, MAX] {
        insert("a", bytes).await;
        assert_eq!(next_size(&mut inbox).await, bytes);
    }
    insert("last", 1).await;
    insert("big", MAX + 1).await;
    insert("behind", 2).await;
    assert_eq!(next_size(&mut inbox).await, 1);
    let reason = until_state(&daemon, "orders", "halted").await;
    for part in ["1100001", "1100000", "message_bytes_max"] {
        assert!(reason.contains(part), "{part} is missing in: {reason}");
    }
    inbox.stays_empty().await;
    assert!(daemon.sigterm(PATIENCE).await.success());

    let text = std::fs::read_to_string(daemon.config_file()).unwrap();
    std::fs::write(daemon.config_file(), text.replace("1100000", "1100001")).unwrap();
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    assert_eq!([next_size(&mut inbox).await, next_size(&mut inbox).await], [MAX + 1, 2]);
    inbox.stays_empty().await;
}

async fn next_size(inbox: &mut Inbox) -> usize {
    inbox.next().await.data.len()
}
