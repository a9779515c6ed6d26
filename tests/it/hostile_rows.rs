//! Rows, tables and names at the limits of PostgreSQL and AMQP, and beyond.

use lapin::types::AMQPValue;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    inbox::{Inbox, header, text_header},
    stage::{PATIENCE, Stage, say, source, until, until_state},
};
use testkit::{Daemon, shared_postgres, shared_rabbitmq, unique};

fn long(text: impl Into<Vec<u8>>) -> AMQPValue {
    AMQPValue::LongString(text.into().into())
}

/// bytea payloads, whose bytes travel as two characters each: from empty up to the default limit, and one byte more.
#[tokio::test]
async fn payloads_from_nothing_to_sixteen_mebibytes_pass_and_one_more_byte_halts() {
    const MAX: usize = 16 << 20;
    let stage = Stage::shared("mebibytes").await;
    stage.sql("ALTER TABLE outbox ALTER payload TYPE bytea USING NULL").await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let mut daemon = stage.relay_as_printed_role().await;
    // Invalid UTF-8 at every position.
    let insert = async |bytes: usize| {
        stage
            .sql(&format!(
                "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
                 VALUES ('Order', 'a', 'E', decode(repeat('ff', {bytes}), 'hex'))"
            ))
            .await;
    };
    for bytes in [0, 1, MAX - 1, MAX] {
        insert(bytes).await;
        let data = inbox.next().await.data;
        assert!(data.len() == bytes && data.iter().all(|byte| *byte == 0xFF), "{bytes}: {}", data.len());
    }
    insert(MAX + 1).await;
    insert(1).await;
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("16777217 bytes") && reason.contains("message_bytes_max"), "{reason}");
    inbox.stays_empty().await;
    let peak = daemon.memory_peak_mb();
    println!("peak memory of the daemon: {peak} MB");
    assert!(peak < 200, "{peak} MB");
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// A content header cannot be split over frames: a header that does not fit is refused once, before the broker sees it.
#[tokio::test]
async fn ten_thousand_headers_halt_and_as_many_as_fit_arrive() {
    const FIT: usize = 800;
    let stage = Stage::shared("headers").await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let mut daemon = stage.relay_as_printed_role().await;
    let insert = async |headers: usize| {
        stage
            .sql(&format!(
                "INSERT INTO outbox (aggregatetype, aggregateid, type, headers) \
                 SELECT 'Order', 'a', 'E', jsonb_object_agg('h' || n, n) FROM generate_series(1, {headers}) n"
            ))
            .await;
    };
    insert(FIT).await;
    insert(10_000).await;
    insert(1).await;
    let delivery = inbox.next().await;
    for n in 1..=FIT {
        assert_eq!(header(&delivery, &format!("h{n}")), Some(AMQPValue::LongLongInt(n as i64)));
    }
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("properties and headers are larger than 15360 bytes"), "{reason}");
    inbox.stays_empty().await;
    // Refused once: no connection was lost, and no attempt is repeated.
    assert_eq!(daemon.count("orders", "messages_published_total").await, 1);
    for side in ["postgres", "rabbitmq"] {
        assert_eq!(daemon.reconnects("orders", side).await, 0, "{side}");
    }
    // Nothing is in flight, and the lag grows.
    assert!(reason.contains("deleting the row in the table helps only for a backlog row"), "{reason}");
    let shown = source(&daemon, "orders").await;
    for age in ["lag_seconds", "oldest_unconfirmed_seconds"] {
        assert!(shown[age].is_number(), "{age}: {shown:#}");
        assert!(daemon.metric(&format!("outboxd_{age}{{source=\"orders\"}}")).await.is_some(), "{age}");
    }
    assert!(shown["last_confirmed_at"].is_string(), "{shown:#}");
    let confirmed = daemon.metric("outboxd_last_confirm_timestamp_seconds{source=\"orders\"}").await;
    assert!(confirmed > Some(1e9), "{confirmed:?}");
    let kept = "outboxd_slot_wal_status{source=\"orders\",wal_status=\"reserved\"}";
    assert_eq!(daemon.metric(kept).await, Some(1.0));
    // After a restart the row is still there, and so are the rows behind it.
    assert!(daemon.sigterm(PATIENCE).await.success());
    daemon.start_again();
    crate::stage::until_alive(&daemon).await;
    assert_eq!(until_state(&daemon, "orders", "halted").await, reason);
    inbox.stays_empty().await;
}

/// Headers that halt the source: name of the source, type of the column, value, and a part of the reason.
const REFUSED: [(&str, &str, &str, &str); 9] = [
    ("array", "jsonb", "'[{\"a\": 1}]'", "JSON that is not an object"),
    ("text", "jsonb", "'\"text\"'", "JSON that is not an object"),
    ("number", "jsonb", "'1'", "JSON that is not an object"),
    ("boolean", "jsonb", "'true'", "JSON that is not an object"),
    ("cc", "jsonb", "'{\"CC\": [\"q\"]}'", "header \"CC\" has a meaning of its own"),
    ("bcc", "jsonb", "'{\"BCC\": null}'", "header \"BCC\" has a meaning of its own"),
    ("long-name", "jsonb", "jsonb_build_object(repeat('k', 256), 1)", "name of a header is 256 bytes long"),
    // Only the type json allows these.
    ("surrogate", "json", "'{\"a\": \"\\ud800\"}'", "does not hold valid JSON"),
    ("no-json", "text", "'{\"a\": '", "does not hold valid JSON"),
];

fn table_of(source: &str) -> String {
    format!("of_{}", source.replace('-', "_"))
}

#[tokio::test]
async fn every_shape_of_json_becomes_headers_or_halts_with_a_reason() {
    let mut stage = Stage::shared("shapes").await;
    for (name, column, ..) in REFUSED {
        let (table, slot) = (table_of(name), stage.slot());
        stage
            .sql(&format!(
                "CREATE TABLE {table} (LIKE outbox INCLUDING ALL); ALTER TABLE {table} ALTER headers TYPE {column} USING NULL"
            ))
            .await;
        stage.source += &format!(
            "[sources.{name}]\npostgres.url = \"{}\"\npostgres.slot = \"{slot}_{table}\"\noutbox.table = '{table}'\n",
            stage.postgres_url
        );
    }
    let name255 = "k".repeat(255);
    let deep = format!("{}1{}", "[".repeat(1000), "]".repeat(1000));
    let thousand = |digit: &str| AMQPValue::LongString(digit.repeat(1000).into());
    let shapes: Vec<(String, Vec<(&str, AMQPValue)>)> = vec![
        ("null".into(), vec![]),
        ("{}".into(), vec![]),
        (r#"{"": "no name"}"#.into(), vec![("", long("no name"))]),
        (format!("{{\"{name255}\": true}}"), vec![(&name255, AMQPValue::Boolean(true))]),
        (
            r#"{"a": 1, "A": 2, "a": 3}"#.into(),
            vec![("a", AMQPValue::LongLongInt(3)), ("A", AMQPValue::LongLongInt(2))],
        ),
        (r#"{"n": null, "f": false, "t": ""}"#.into(), vec![("n", AMQPValue::Void), ("t", long(""))]),
        (
            r#"{"i": 9223372036854775807, "j": 9223372036854775808, "z": -0}"#.into(),
            vec![
                ("i", AMQPValue::LongLongInt(i64::MAX)),
                ("j", long("9223372036854775808")),
                ("z", AMQPValue::LongLongInt(0)),
            ],
        ),
        (
            r#"{"h": 0.50, "e": 1e3, "s": 12345678901234567.89}"#.into(),
            vec![
                ("h", AMQPValue::Double(0.5)),
                // jsonb expands the exponent.
                ("e", AMQPValue::LongLongInt(1000)),
                ("s", long("12345678901234567.89")),
            ],
        ),
        (format!("{{\"m\": {}}}", "9".repeat(1000)), vec![("m", thousand("9"))]),
        (r#"{"m": 1e400}"#.into(), vec![("m", long(format!("1{}", "0".repeat(400))))]),
        (r#"{"m": 1e-400}"#.into(), vec![("m", long(format!("0.{}1", "0".repeat(399))))]),
        (format!("{{\"d\": {deep}}}"), vec![("d", long(deep.clone()))]),
        (r#"{"o": {"k": [1, {}]}}"#.into(), vec![("o", long(r#"{"k": [1, {}]}"#))]),
        ("{\"Grüße 😀\\n\\\"\\\\\": \"\\u007f\\t\"}".into(), vec![("Grüße 😀\n\"\\", long("\u{7f}\t"))]),
    ];
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let daemon = Daemon::start(&stage.config());
    crate::stage::until_alive(&daemon).await;
    let client = stage.client().await;
    for (shape, expected) in &shapes {
        let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, headers) VALUES ('Order', 'a', 'E', $1::text::jsonb)";
        client.execute(insert, &[shape]).await.unwrap();
        let delivery = inbox.next().await;
        for (name, value) in expected {
            assert_eq!(header(&delivery, name).as_ref(), Some(value), "{shape}");
        }
    }
    for (name, _, value, expected) in REFUSED {
        let table = table_of(name);
        stage
            .sql(&format!(
                "INSERT INTO {table} (aggregatetype, aggregateid, type, headers) VALUES ('Order', 'a', 'E', {value})"
            ))
            .await;
        let reason = until_state(&daemon, name, "halted").await;
        assert!(reason.contains(expected), "{name}: {reason}");
    }
    inbox.stays_empty().await;
    assert_eq!(source(&daemon, "orders").await["state"], "streaming");
}

/// PostgreSQL allows no zero character in text and jsonb. An escape in json gives one, and so does bytea.
#[tokio::test]
async fn zero_characters_arrive_where_postgresql_lets_them_in() {
    let mut stage = Stage::shared("zero").await;
    for refused in ["E'\\x00'", "'{\"a\": \"\\u0000\"}'::jsonb::text", "convert_from('\\x00', 'UTF8')"] {
        let sql =
            format!("INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('Order', {refused}, 'E')");
        assert!(stage.client().await.batch_execute(&sql).await.is_err(), "{refused}");
    }
    stage.sql("ALTER TABLE outbox ALTER headers TYPE json, ALTER payload TYPE bytea USING NULL").await;
    stage.source =
        "message.routing_key = \"{header:key}\"\nmessage.headers = { copy = \"{header:key}\" }".into();
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let daemon = stage.relay_as_printed_role().await;
    stage
        .sql(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers) \
             VALUES ('Order', 'a', 'E', '\\x00ff00', '{\"key\": \"\\u0000k\", \"na\\u0000me\": \"\\u0000\"}')",
        )
        .await;
    let delivery = inbox.next().await;
    assert_eq!(delivery.data, b"\0\xFF\0");
    assert_eq!(delivery.routing_key.as_str(), "\0k");
    assert_eq!(text_header(&delivery, "copy"), "\0k");
    assert_eq!(text_header(&delivery, "na\0me"), "\0");
    drop(daemon);
}

/// Every Unicode character except zero, in texts as long as AMQP allows, in every place of a message.
#[tokio::test]
async fn all_of_unicode_travels_in_ids_types_keys_headers_and_payloads() {
    let mut stage = Stage::shared("unicode").await;
    stage
        .sql("ALTER TABLE outbox ALTER id DROP DEFAULT, ALTER id TYPE text, ALTER payload TYPE text USING payload::text")
        .await;
    stage.source = "message.exchange = \"Order.events\"\nmessage.routing_key = \"{aggregate_id}\"".into();
    let mut pieces = vec![String::new()];
    for c in '\u{1}'..=char::MAX {
        let last = pieces.last_mut().unwrap();
        match last.len() + c.len_utf8() {
            ..=255 => last.push(c),
            _ => pieces.push(c.into()),
        }
    }
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let daemon = stage.relay_as_printed_role().await;
    let insert = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, headers) \
                  SELECT p, p, p, p, p, jsonb_build_object(p, p) FROM unnest($1::text[]) WITH ORDINALITY AS _ (p, n) ORDER BY n";
    stage.client().await.execute(insert, &[&pieces]).await.unwrap();
    for piece in &pieces {
        let delivery = inbox.next().await;
        let properties = &delivery.properties;
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), piece);
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), piece);
        assert_eq!(delivery.routing_key.as_str(), piece);
        assert_eq!(delivery.data, piece.as_bytes());
        for name in ["aggregate-type", "aggregate-id", "event-type", piece] {
            assert_eq!(text_header(&delivery, name), *piece, "{name}");
        }
    }
    inbox.stays_empty().await;
    println!("{} messages for all of Unicode", pieces.len());
    drop(daemon);
}

#[tokio::test]
async fn databases_roles_vhosts_exchanges_and_queues_may_be_called_anything() {
    const ODD: &str = "Ünï \"Q\" 'q' %41 /?#&=@:;--\\";
    let encoded = |name: &str| utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut stage = Stage::shared("odd").await;
    let (database, vhost) = (unique(ODD), unique(ODD));
    let role = unique("Rôle \"R\" @:/");
    let admin = stage.client().await;
    for sql in [
        format!("CREATE ROLE {} SUPERUSER LOGIN PASSWORD 'p@ss:/?#'", quoted(&role)),
        format!("CREATE DATABASE {}", quoted(&database)),
    ] {
        admin.batch_execute(&sql).await.unwrap();
    }
    stage.postgres_url = format!(
        "postgresql://{}:{}@127.0.0.1:{}/{}",
        encoded(&role),
        encoded("p@ss:/?#"),
        shared_postgres().await.port(),
        encoded(&database)
    );
    let broker = shared_rabbitmq().await;
    broker.ctl(&["add_vhost", &vhost]).await;
    broker.ctl(&["set_permissions", "-p", &vhost, "guest", ".*", ".*", ".*"]).await;
    stage.amqp_url = format!("amqp://guest:guest@127.0.0.1:{}/{}", broker.port(), encoded(&vhost));
    stage.workload.create_tables(&stage.client().await).await;
    stage.source = format!(
        "message.exchange = '{{aggregate_type}}'\n[[subscriptions]]\nqueue = '''{ODD}'''\nexchange = '''{ODD}'''\n\
         queue_type = \"classic\"\nsingle_active_consumer = false\ndead_letter = false"
    );
    let mut daemon = Daemon::prepare(&stage.config());
    assert_eq!(say(&daemon, &["setup"]).await.status, 0);
    assert_eq!(say(&daemon, &["check"]).await.status, 0);
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    let literal = ODD.replace('\'', "''");
    stage
        .sql(&format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('{literal}', '{literal}', '{literal}', '1')"
        ))
        .await;
    let mut inbox = Inbox::bind(&stage.amqp_url, ODD, &[]).await;
    let delivery = inbox.next().await;
    assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), (ODD, ODD));
    assert_eq!(text_header(&delivery, "aggregate-id"), ODD);
    until(&daemon, "orders", |shown| shown["confirmed"] == 1).await;
    assert_eq!(say(&daemon, &["status"]).await.status, 0);
    assert!(daemon.sigterm(PATIENCE).await.success());
    assert_eq!(say(&daemon, &["teardown", "--source", "orders"]).await.status, 0);
    let left = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
    assert_eq!(stage.client().await.query_one(left, &[&stage.slot()]).await.unwrap().get::<_, i64>(0), 0);
}
