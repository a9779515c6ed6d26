//! Large amounts: one transaction larger than the daemon's memory, and many sources of which some are broken.

use std::time::{Duration, Instant};

use lapin::{
    options::{BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};

use crate::{
    inbox::{header, text_header},
    stage::{PATIENCE, Stage, alive, until, until_state},
};
use testkit::{Postgres, PostgresOptions, shared_rabbitmq};

/// The server decodes for a while, then sends everything at once. Nobody consumes; the queue counts.
#[tokio::test]
async fn a_transaction_of_300_000_rows_takes_no_memory() {
    const ROWS: u32 = 300_000;
    // The test's own server, because the test keeps it busy.
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let stage = Stage::on("huge", &postgres, shared_rabbitmq().await).await;
    let connection = lapin::Connection::connect(&stage.amqp_url, Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    let (queue, exchange) = (stage.name.as_str(), "Order.events");
    channel.queue_declare(queue.into(), durable, FieldTable::default()).await.unwrap();
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let topic = lapin::ExchangeKind::Topic;
    channel.exchange_declare(exchange.into(), topic, durable, FieldTable::default()).await.unwrap();
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue.into(), exchange.into(), "#".into(), options, FieldTable::default())
        .await
        .unwrap();

    let mut daemon = stage.relay_as_printed_role().await;
    let at_rest = daemon.memory_peak_mb();
    stage
        .sql(&format!(
            "ALTER TABLE outbox DROP CONSTRAINT outbox_pkey;
             INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
             SELECT '00000000-0000-4000-8000-000000000000', 'Order', n % 1000, 'E', to_jsonb(n) FROM generate_series(1, {ROWS}) n"
        ))
        .await;
    let committed = Instant::now();
    let deadline = committed + Duration::from_secs(300);
    while daemon.metric("outboxd_messages_confirmed_total{source=\"orders\"}").await < Some(f64::from(ROWS)) {
        assert!(Instant::now() < deadline, "not in time: {:#}", daemon.status().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = committed.elapsed();
    let peak = daemon.memory_peak_mb();
    println!("{ROWS} rows in {took:?}; peak memory of the daemon {at_rest} MB at rest, {peak} MB in the end");
    assert!(peak < 80, "{peak} MB");

    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let counted = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap();
    assert_eq!(counted.message_count(), ROWS, "all of them, none twice");
    for n in 1..=1000_u32 {
        let options = BasicGetOptions { no_ack: true };
        let got = channel.basic_get(queue.into(), options).await.unwrap().unwrap();
        assert_eq!(got.delivery.data, n.to_string().as_bytes());
        assert!(text_header(&got.delivery, "outbox-position").ends_with(&format!("-{:08X}", n - 1)));
        assert!(header(&got.delivery, "outbox-source").is_some());
    }
    // The whole transaction is acknowledged to the server, too.
    assert!(daemon.sigterm(PATIENCE).await.success());
    let query = "SELECT confirmed_flush_lsn - '0/0' > 0 AND pg_current_wal_lsn() - confirmed_flush_lsn < 10000000 \
                 FROM pg_replication_slots";
    assert!(postgres.client("postgres").await.query_one(query, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn two_broken_sources_of_sixteen_leave_the_others_running() {
    const SOURCES: usize = 16;
    let mut stage = Stage::shared("sixteen").await;
    for n in 0..SOURCES {
        let url = match n {
            3 => stage.postgres_url.replace("postgres@", "nobody_of_that_name:s3cret@"),
            _ => stage.postgres_url.clone(),
        };
        stage.source += &format!(
            "[sources.s{n}]\npostgres.url = \"{url}\"\npostgres.slot = \"{}_s{n}\"\noutbox.table = \"outbox_{n}\"\n\
             delivery.backoff_max_ms = 300\n",
            stage.slot()
        );
        if n != 7 {
            stage.sql(&format!("CREATE TABLE outbox_{n} (LIKE outbox INCLUDING ALL)")).await;
        }
    }
    let write = async |round: usize| {
        for n in (0..SOURCES).filter(|n| *n != 7 || round > 1) {
            let insert = "(aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', 'E', ";
            stage.sql(&format!("INSERT INTO outbox_{n} {insert} '{round}')")).await;
        }
    };
    let mut inbox = stage.inbox(&["Order.events"]).await;
    write(0).await;
    let mut daemon = alive(&stage.config()).await;
    for n in (0..SOURCES).filter(|n| ![3, 7].contains(n)) {
        until_state(&daemon, &format!("s{n}"), "streaming").await;
    }
    let faulty = |shown: &serde_json::Value| shown["last_error"].is_string();
    let shown = until(&daemon, "s3", faulty).await;
    assert!(shown["reason"].as_str().unwrap().contains("nobody_of_that_name"), "{shown:#}");
    let shown = until(&daemon, "s7", faulty).await;
    assert!(shown["reason"].as_str().unwrap().contains("outbox_7"), "{shown:#}");
    write(1).await;
    let mut seen = Vec::new();
    for _ in 0..2 * (SOURCES - 2) {
        let delivery = inbox.next().await;
        seen.push((text_header(&delivery, "outbox-source"), delivery.data));
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 2 * (SOURCES - 2));
    let (status, text) = testkit::http::get(daemon.port(), "/readyz").await.unwrap();
    assert_eq!((status.as_u16(), text.lines().count()), (503, 2), "{text}");

    // A repaired source continues by itself.
    stage.sql("CREATE TABLE outbox_7 (LIKE outbox INCLUDING ALL)").await;
    until_state(&daemon, "s7", "streaming").await;
    write(2).await;
    let mut healed = 0;
    for _ in 0..SOURCES - 1 {
        healed += usize::from(text_header(&inbox.next().await, "outbox-source") == "s7");
    }
    assert_eq!(healed, 1);
    inbox.stays_empty().await;
    assert!(!daemon.log().contains("s3cret") && !daemon.status().await.to_string().contains("s3cret"));
    assert!(daemon.sigterm(PATIENCE).await.success());
}
