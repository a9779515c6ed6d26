//! How fast a backlog of WAL drains: 100,000 single-row transactions into a quorum queue, on private nodes.
//!
//! `make bench` runs it. Prints rows per second, CPU per message and peak resident memory of the daemon, for both
//! orderings in alternation; the machine's own drift shows in the spread of the rounds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    time::{Duration, Instant},
};

use lapin::{
    Connection, ConnectionProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions},
    types::{AMQPValue, FieldTable},
};

#[path = "../tests/support/mod.rs"]
mod support;

use support::{Daemon, Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, Workload};

const ROWS: u32 = 100_000;
const AGGREGATES: u32 = 10_000;
const ROUNDS: usize = 3;
const QUEUE: &str = "drain";

struct Figures {
    rows_per_second: f64,
    cpu_us_per_message: f64,
    peak_mb: f64,
}

#[tokio::main]
async fn main() {
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let broker = RabbitMq::start(RabbitMqOptions::default()).await;
    let (postgres_url, amqp_url) =
        (postgres.create_database("drain").await, broker.create_vhost("drain").await);
    let client = postgres.client("drain").await;
    Workload::default().create_tables(&client).await;
    client.batch_execute(WRITE).await.expect("procedure created");
    declare(&amqp_url).await;

    println!(
        "drain of {ROWS} single-row transactions, {AGGREGATES} aggregates, 300-byte payload, quorum queue"
    );
    println!("{:<15}{:>12}{:>20}{:>15}", "ordering", "rows/s", "CPU us/message", "peak RSS MB");
    for _ in 0..ROUNDS {
        for ordering in ["per-aggregate", "pipelined"] {
            let config = format!(
                "[rabbitmq]\nurl = \"{amqp_url}\"\n[sources.drain]\npostgres.url = \"{postgres_url}\"\n\
                 delivery.ordering = \"{ordering}\"\n"
            );
            let figures = drain(&config, &client, &amqp_url).await;
            println!(
                "{ordering:<15}{:>12.0}{:>20.1}{:>15.1}",
                figures.rows_per_second, figures.cpu_us_per_message, figures.peak_mb
            );
        }
    }
}

/// Writes the rows while the daemon is away, then lets it drain them.
async fn drain(config: &str, client: &tokio_postgres::Client, amqp_url: &str) -> Figures {
    let mut daemon = Daemon::start(config);
    daemon.wait_ready(Duration::from_secs(60)).await;
    assert!(daemon.sigterm(Duration::from_secs(60)).await.success());
    client.batch_execute("SET synchronous_commit = off").await.expect("faster commits");
    client.batch_execute(&format!("CALL write_rows({ROWS}, {AGGREGATES})")).await.expect("rows written");

    daemon.start_again();
    let series = "outboxd_messages_confirmed_total{source=\"drain\"}";
    let (mut began, mut before) = (None, 0.0);
    let elapsed = loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let confirmed = confirmed(&daemon, series).await;
        if began.is_none() && confirmed > 0.0 {
            (began, before) = (Some(Instant::now()), confirmed);
        }
        if confirmed >= f64::from(ROWS) {
            break began.expect("seen before the end").elapsed();
        }
    };
    let (cpu, peak_kb) = usage(daemon.pid());
    assert!(daemon.sigterm(Duration::from_secs(60)).await.success());
    client.batch_execute("TRUNCATE outbox").await.expect("emptied");
    purge(amqp_url).await;
    Figures {
        rows_per_second: (f64::from(ROWS) - before) / elapsed.as_secs_f64(),
        cpu_us_per_message: cpu.as_micros() as f64 / f64::from(ROWS),
        peak_mb: peak_kb / 1024.0,
    }
}

async fn confirmed(daemon: &Daemon, series: &str) -> f64 {
    match support::http::get(daemon.admin_port(), "/metrics").await {
        Ok((_, text)) => {
            text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0.0)
        }
        Err(_) => 0.0,
    }
}

/// CPU time so far and peak resident memory in KiB, from `/proc` (proc(5)); a tick is 10 ms.
fn usage(pid: u32) -> (Duration, f64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    let after_name = stat.rsplit_once(") ").expect("stat has a name").1;
    let ticks: u64 = after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    (Duration::from_millis(ticks * 10), peak.trim().trim_end_matches(" kB").parse().unwrap())
}

async fn declare(amqp_url: &str) {
    let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await.expect("connected");
    let channel = connection.create_channel().await.expect("channel");
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel
        .exchange_declare("Order.events".into(), ExchangeKind::Topic, durable, FieldTable::default())
        .await
        .expect("exchange");
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(QUEUE.into(), durable, arguments).await.expect("queue");
    let options = QueueBindOptions::default();
    channel
        .queue_bind(QUEUE.into(), "Order.events".into(), "#".into(), options, FieldTable::default())
        .await
        .expect("binding");
    connection.close(200, "declared".into()).await.expect("closed");
}

async fn purge(amqp_url: &str) {
    let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await.expect("connected");
    let channel = connection.create_channel().await.expect("channel");
    let purged = channel.queue_purge(QUEUE.into(), QueuePurgeOptions::default()).await.expect("purged");
    assert!(purged >= ROWS, "the queue held {purged} messages");
    connection.close(200, "purged".into()).await.expect("closed");
}

const WRITE: &str = "
    CREATE PROCEDURE write_rows(rows int, aggregates int) LANGUAGE plpgsql AS $$
    BEGIN
        FOR n IN 1..rows LOOP
            INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
            VALUES ('Order', (random() * aggregates)::int::text, 'OrderCreated',
                    jsonb_build_object('orderId', n, 'filler', repeat('x', 270)));
            COMMIT;
        END LOOP;
    END $$";
