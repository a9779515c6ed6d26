//! Rows that cannot be parked.

use std::{collections::BTreeSet, time::Instant};

use crate::{
    inbox::text_header,
    parked::{PARK, parked_rows, parking, until_confirmed, until_parked},
    stage::{PATIENCE, Stage, eventually, say, until_state},
};
use testkit::{shared_postgres, unique};

/// Locked for several times longer than the server lets an insert wait.
#[tokio::test]
async fn a_locked_table_holds_up_what_is_to_be_parked_and_repeats_nothing_that_is_confirmed() {
    let mut stage = parking("park_locked").await;
    stage.source += "postgres.wal_sender_timeout_ms = 2000\ndelivery.in_flight_max = 50000\n";
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
    let client = stage.client().await;
    let walsender =
        format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", stage.slot());
    let walsender = async || client.query_one(&walsender, &[]).await.unwrap().get::<_, Option<i32>>(0);
    let before = walsender().await;
    assert!(before.is_some());

    let locker = stage.client().await;
    locker.batch_execute("BEGIN; LOCK TABLE outboxd_parked IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let id = stage.write_unseen("a", "OrderCreated").await;
    let reason = until_state(&daemon, "orders", "halted").await;
    for part in ["cannot park 1 messages", "lock timeout", "locked: find it in pg_locks", "goes on by itself"]
    {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let (status, ready) = daemon.readyz().await;
    assert!(status == 503 && ready.contains(&reason), "{status} {ready}");
    let halted = daemon.metric("outboxd_source_state{source=\"orders\",state=\"halted\"}").await;
    assert_eq!(halted, Some(1.0));
    assert!(daemon.log().contains("source is halted") && daemon.log().contains(&reason));

    // One row at a time is retried while other aggregates go on.
    let (mut tried, mut written) = (BTreeSet::new(), 0);
    let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query ~ 'INTO .*outboxd_parked' \
                   AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + PATIENCE;
    while tried.len() < 3 {
        assert!(Instant::now() < deadline, "tried by {tried:?} only");
        written += 1;
        stage.write_row("b", written, "OrderChanged").await;
        let waiting = client.query(waiting, &[]).await.unwrap();
        assert!(waiting.len() <= 1, "{} wait at the same time", waiting.len());
        tried.extend(waiting.iter().map(|row| row.get::<_, i32>(0)));
    }
    assert_eq!(until_state(&daemon, "orders", "halted").await, reason, "nothing new to say");
    stage.verdict().await.assert_delivered(0);
    assert_eq!(walsender().await, before, "the stream has ended");

    locker.batch_execute("ROLLBACK").await.unwrap();
    until_state(&daemon, "orders", "streaming").await;
    until_parked(&stage, 1).await;
    assert_eq!(parked_rows(&client).await[0].0, Some(id));
    stage.write_row("a", 2, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
    until_confirmed(&stage).await;
    assert_eq!(daemon.readyz().await.0, 200);
    let published = daemon.count("orders", "messages_published_total").await;
    assert_eq!(published, stage.oracle.committed_count() + 1, "each once, and the parked one");
    for side in ["postgres", "rabbitmq"] {
        assert_eq!(daemon.reconnects("orders", side).await, 0, "{side}");
    }
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// While nothing can be parked, the in-flight window limits what is held, and a shutdown exits with 1.
#[tokio::test]
async fn a_window_full_of_rows_that_cannot_be_parked_waits_and_goes_on() {
    let mut stage = parking("park_full").await;
    stage.source += "delivery.in_flight_max = 50\npostgres.wal_sender_timeout_ms = 2000\n";
    let mut daemon = stage.relay_as_printed_role().await;
    stage.sql("ALTER TABLE outboxd_parked RENAME TO elsewhere").await;
    stage
        .sql(
            "INSERT INTO outbox (aggregatetype, aggregateid, type)
             SELECT 'Order', 'p' || n, 'OrderCreated' FROM generate_series(1, 120) n",
        )
        .await;
    stage.write_row("a", 1, "OrderChanged").await;
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("42P01") && reason.contains("outboxd check"), "{reason}");
    eventually("the window is full", async || daemon.count("orders", "messages_returned_total").await == 50)
        .await;
    assert_eq!(stage.oracle.received_count(), 0);
    stage.sql("ALTER TABLE elsewhere RENAME TO outboxd_parked").await;
    stage.verdict().await.assert_delivered(0);
    until_parked(&stage, 120).await;
    until_confirmed(&stage).await;
    assert_eq!(daemon.count("orders", "messages_published_total").await, 121);
    assert_eq!(daemon.reconnects("orders", "postgres").await, 0);
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// A zero character in every database, and in others than UTF8 the characters that their encoding lacks.
#[tokio::test]
async fn texts_that_the_database_cannot_hold_are_parked_and_listed_with_escapes_and_requeued_as_they_were() {
    const KEYS: [&str; 4] = ["plain é", "\0k", "5 €", r"\u{0}"];
    for encoding in ["UTF8", "LATIN1", "SQL_ASCII"] {
        let mut stage = Stage::shared("park_text").await;
        let server = shared_postgres().await;
        let name = unique("park_text");
        let create =
            format!("CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        server.client("postgres").await.batch_execute(&create).await.unwrap();
        stage.postgres_url = server.url(&name);
        stage.workload.create_tables(&stage.client().await).await;
        stage.sql("ALTER TABLE outbox ALTER headers TYPE json").await;
        stage.source = format!("{PARK}message.routing_key = \"{{header:key}}\"\n");
        let daemon = stage.relay_as_printed_role().await;
        let client = stage.client().await;
        for key in KEYS {
            // JSON escapes, which PostgreSQL does not resolve.
            let escaped: String = key.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let insert = format!(
                "INSERT INTO outbox (aggregatetype, aggregateid, type, headers) \
                 VALUES ('Order', 'é', 'E', '{{\"key\": \"{escaped}\"}}')"
            );
            client.batch_execute(&insert).await.unwrap();
        }
        until_parked(&stage, KEYS.len()).await;
        until_confirmed(&stage).await;
        assert_eq!(daemon.readyz().await.0, 200, "{encoding}");

        let keys = "SELECT routing_key FROM outboxd_parked ORDER BY position";
        let written: Vec<String> =
            client.query(keys, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(written[1], r"\u{0}k", "{encoding}");
        assert!(written[2] == "5 €" || encoding == "LATIN1" && written[2] == r"5 \u{20ac}", "{written:?}");
        let listed = say(&daemon, &["parked", "list", "--source", "orders", "--json"]).await;
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
        let listed = listed.as_array().unwrap();
        assert_eq!(
            listed.iter().map(|row| row["routing_key"].as_str().unwrap()).collect::<Vec<_>>(),
            written
        );
        assert!(listed.iter().all(|row| row["aggregate_id"] == "é"), "{encoding}: {listed:?}");

        // A row that stays is written again, and a published row is as it was committed.
        let requeue = ["parked", "requeue", "--source", "orders", "--all"];
        assert_eq!(say(&daemon, &requeue).await.status, 1);
        let mut inbox = stage.inbox(&["Order.events"]).await;
        let said = say(&daemon, &requeue).await;
        assert_eq!(said.status, 0, "{encoding}");
        for key in KEYS {
            let delivery = inbox.next().await;
            assert_eq!(delivery.routing_key.as_str(), key, "{encoding}");
            assert_eq!(text_header(&delivery, "aggregate-id"), "é");
        }
        assert!(parked_rows(&client).await.is_empty());
    }
}
