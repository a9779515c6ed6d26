//! Parked rows: a row that cannot be published does not hold up others, and nothing is lost.

use tokio_postgres::Client;

use crate::stage::{PATIENCE, Stage, eventually, say, until, until_alive, until_state};
use testkit::Daemon;

/// All policies park.
pub(crate) const PARK: &str = "delivery.on_unroutable = \"park\"\ndelivery.on_invalid = \"park\"\n\
                               delivery.backoff_min_ms = 20\ndelivery.backoff_max_ms = 200\n";

/// A source that parks, and a queue for `OrderChanged` only.
pub(crate) async fn parking(test: &str) -> Stage {
    let mut stage = Stage::shared(test).await;
    stage.source = PARK.to_owned();
    stage.with_printed_role().await;
    stage.consume_only("OrderChanged").await;
    stage
}

/// Every parked row, by position: message id, cause, reason.
pub(crate) async fn parked_rows(client: &Client) -> Vec<(Option<String>, String, String)> {
    let select = "SELECT message_id, cause, reason FROM outboxd_parked ORDER BY position";
    let rows = client.query(select, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

pub(crate) async fn until_parked(stage: &Stage, count: usize) {
    let client = stage.client().await;
    eventually("rows are parked", async || parked_rows(&client).await.len() >= count).await;
}

/// Waits until the slot's confirmed position has passed the current end of WAL.
pub(crate) async fn until_confirmed(stage: &Stage) {
    let client = stage.client().await;
    let end: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let confirmed = format!(
        "SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = '{}'",
        stage.slot()
    );
    eventually("the slot is confirmed", async || {
        client.query_one(&confirmed, &[]).await.unwrap().get::<_, bool>(0)
    })
    .await;
}

#[tokio::test]
async fn an_unroutable_message_is_parked_and_what_follows_it_goes_on() {
    let stage = parking("park").await;
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderChanged").await;
    let id = stage.write_unseen("a", "OrderCreated").await;
    stage.write_row("a", 2, "OrderChanged").await;
    stage.write_row("b", 1, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
    until_confirmed(&stage).await;

    let client = stage.client().await;
    let rows = parked_rows(&client).await;
    let [(Some(parked), cause, reason)] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((parked, cause.as_str()), (&id, "unroutable"));
    assert!(reason.contains("'Order.events'") && reason.contains("'OrderCreated'"), "{reason}");
    let route = "SELECT exchange || ' ' || routing_key || ' ' || aggregate_type || ' ' || aggregate_id || ' ' || \
                 event_type || ' ' || slot FROM outboxd_parked";
    let route: String = client.query_one(route, &[]).await.unwrap().get(0);
    assert_eq!(route, format!("Order.events OrderCreated Order a OrderCreated {}", stage.slot()));
    assert_eq!(daemon.count("orders", "messages_parked_total").await, 1);
    assert_eq!(daemon.count("orders", "messages_returned_total").await, 1);
    let shown = until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    assert_eq!((&shown["state"], &shown["parked"]), (&"streaming".into(), &1.into()), "{shown}");
    assert_eq!(daemon.count("orders", "parked_rows").await, 1);
    assert_eq!(daemon.readyz().await.0, 200);
    let log = daemon.log();
    assert!(log.contains("parked a row") && log.contains(&id), "{log}");
    assert!(!log.contains("hidden"), "a payload in the log: {log}");

    stage.is_settled_for_good(&mut daemon).await;
    assert_eq!(parked_rows(&client).await.len(), 1);
}

#[tokio::test]
async fn rows_that_cannot_become_messages_are_parked_from_the_stream_and_from_the_backlog() {
    let mut stage = Stage::shared("park_invalid").await;
    stage.source = format!("{PARK}delivery.message_bytes_max = 2000\n");
    stage.consume().await;
    let long = "x".repeat(300);
    let insert = |round: i32| {
        format!(
            "BEGIN;
             INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('{long}', 'exchange{round}', 't', '1');
             INSERT INTO outbox (aggregatetype, aggregateid, type, headers) VALUES ('Order', 'headers{round}', 't', '[1]');
             INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
             VALUES ('Order', 'large{round}', 't', to_jsonb(repeat('x', 3000)));
             COMMIT"
        )
    };
    stage.write_row("a", 1, "OrderCreated").await;
    stage.sql(&insert(0)).await;
    stage.write_row("a", 2, "OrderCreated").await;
    let daemon = stage.relay_as_printed_role().await;
    until_parked(&stage, 3).await;
    stage.write_row("a", 3, "OrderCreated").await;
    stage.sql(&insert(1)).await;
    stage.write_row("a", 4, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    until_parked(&stage, 6).await;
    until_confirmed(&stage).await;

    let rows = parked_rows(&stage.client().await).await;
    let reasons = ["the exchange is", "JSON that is not an object", "delivery.message_bytes_max"];
    for ((_, cause, reason), expected) in rows.iter().zip(reasons.iter().cycle()) {
        assert!(cause == "invalid" && reason.contains(expected), "{expected}: {reason}");
    }
    assert_eq!(daemon.count("orders", "messages_parked_total").await, 6);
    assert_eq!(daemon.readyz().await.0, 200);

    // The rows are still in the outbox table, so a replay leaves them out.
    let said = say(&daemon, &["replay", "--source", "orders"]).await;
    assert!(said.status == 0 && said.stdout.contains("confirmed: 4 "), "{}", said.stdout);
    assert!(said.stdout.contains("(see the log): 6\n"), "{}", said.stdout);
    assert_eq!(parked_rows(&stage.client().await).await.len(), 6);
}

/// A content header cannot be split over frames, and the connection's frames are small.
#[tokio::test]
async fn a_message_that_amqp_cannot_carry_is_parked_and_the_publisher_goes_on_behind_it() {
    let mut stage = Stage::shared("park_unsendable").await;
    stage.source = PARK.to_owned();
    stage.amqp_url += "?frame_max=8192";
    stage.consume().await;
    let unsendable = "INSERT INTO outbox (aggregatetype, aggregateid, type, headers)
                      SELECT 'Order', 'u' || n, 'OrderCreated', jsonb_build_object('h', repeat('x', 10000))
                      FROM generate_series(1, 5) n";
    stage.sql(unsendable).await;
    stage.write_row("a", 1, "OrderCreated").await;
    let daemon = stage.relay_as_printed_role().await;
    stage.sql(unsendable).await;
    for sequence in 2..=5 {
        stage.write_row("a", sequence, "OrderCreated").await;
        stage.sql(unsendable).await;
    }
    stage.write_row("u1", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    until_parked(&stage, 30).await;
    until_confirmed(&stage).await;
    let rows = parked_rows(&stage.client().await).await;
    for (_, cause, reason) in &rows {
        assert!(cause == "invalid" && reason.contains("frame_max is 8192"), "{reason}");
    }
    assert_eq!(rows.len(), 30);
    assert_eq!(daemon.reconnects("orders", "rabbitmq").await, 0);
    assert_eq!(daemon.readyz().await.0, 200);
}

/// The table of parked rows is locked: nothing behind the row is acknowledged, and other rows are published.
#[tokio::test]
async fn a_row_is_not_acknowledged_before_it_is_parked_and_the_loop_goes_on_meanwhile() {
    let mut stage = parking("park_lock").await;
    stage.source += "postgres.wal_sender_timeout_ms = 2000\n";
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
    let locker = stage.client().await;
    locker.batch_execute("BEGIN; LOCK TABLE outboxd_parked IN EXCLUSIVE MODE").await.unwrap();
    stage.write_unseen("a", "OrderCreated").await;
    let client = stage.client().await;
    let before: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    for sequence in 1..=5 {
        stage.write_row("b", sequence, "OrderChanged").await;
    }
    stage.verdict().await.assert_delivered(0);
    // A later row of the same aggregate waits.
    stage.write_row("a", 2, "OrderChanged").await;
    // Longer than the server tolerates a silent client.
    let reply = format!(
        "SELECT active_pid, confirmed_flush_lsn >= '{before}', now() - pid.reply_time < interval '2 s'
         FROM pg_replication_slots s JOIN pg_stat_replication pid ON pid.pid = s.active_pid WHERE slot_name = '{}'",
        stage.slot()
    );
    let walsender: i32 = client.query_one(&reply, &[]).await.unwrap().get(0);
    for _ in 0..25 {
        let row = client.query_one(&reply, &[]).await.unwrap();
        assert_eq!(
            (row.get::<_, i32>(0), row.get::<_, bool>(1)),
            (walsender, false),
            "not before it is parked"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(stage.oracle.received_count(), 6, "the aggregate's next message has not overtaken");
    assert!(parked_rows(&client).await.is_empty());
    locker.batch_execute("ROLLBACK").await.unwrap();
    stage.verdict().await.assert_delivered(0);
    until_confirmed(&stage).await;
    assert_eq!(parked_rows(&client).await.len(), 1);
    assert_eq!(daemon.reconnects("orders", "postgres").await, 0);
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn a_kill_between_parking_and_acknowledging_parks_a_row_once() {
    let mut stage = parking("park_kill").await;
    // A late status update: the kill comes before it.
    stage.source += "postgres.wal_sender_timeout_ms = 3600000\ndelivery.status_interval_ms = 60000\n";
    let mut daemon = stage.relay_as_printed_role().await;
    let id = stage.write_unseen("a", "OrderCreated").await;
    until_parked(&stage, 1).await;
    daemon.kill9().await;
    let confirmed =
        "SELECT confirmed_flush_lsn < pg_current_wal_lsn() FROM pg_replication_slots WHERE slot_name = $1";
    let client = stage.client().await;
    assert!(client.query_one(confirmed, &[&stage.slot()]).await.unwrap().get::<_, bool>(0));
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    eventually("it comes again", async || daemon.count("orders", "messages_parked_total").await == 1).await;
    let rows = parked_rows(&client).await;
    assert!(rows.len() == 1 && rows[0].0.as_ref() == Some(&id), "{rows:?}");
    stage.write_row("a", 2, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
}

#[tokio::test]
async fn without_the_table_or_the_right_to_it_nothing_is_lost_and_the_reason_says_so() {
    let mut stage = parking("park_table").await;
    stage.source += "postgres.create = false\n";
    let creating = Daemon::prepare(&stage.config());
    assert_eq!(creating.command(&["setup"]).await.status.code(), Some(0));
    stage.sql("DROP TABLE outboxd_parked").await;
    let daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    // A source that may have to park is not ready without the table.
    let missing =
        until(&daemon, "orders", |shown| shown["reason"].to_string().contains("outboxd_parked")).await;
    let reason = missing["reason"].as_str().unwrap();
    assert!(reason.contains("does not exist") && reason.contains("CREATE TABLE"), "{reason}");
    assert_eq!(daemon.readyz().await.0, 503);
    stage.run_printed_sql().await;
    until_state(&daemon, "orders", "streaming").await;

    // The table is dropped while the daemon runs.
    stage.write_row("a", 1, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
    stage.sql("ALTER TABLE outboxd_parked RENAME TO elsewhere").await;
    let id = stage.write_unseen("a", "OrderCreated").await;
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("cannot park 1 messages") && reason.contains("outboxd_parked"), "{reason}");
    stage.write_row("a", 2, "OrderChanged").await;
    stage.sql("ALTER TABLE elsewhere RENAME TO outboxd_parked").await;
    stage.verdict().await.assert_delivered(0);
    until_parked(&stage, 1).await;
    let rows = parked_rows(&stage.client().await).await;
    assert_eq!(rows[0].0, Some(id));
    assert_eq!(daemon.reconnects("orders", "postgres").await, 0);
}
