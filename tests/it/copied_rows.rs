//! Rows of a backlog that the server copies before they are published, and rows without room for a copy.

use std::time::Duration;

use crate::{
    inbox::{Inbox, text_header},
    stage::{PATIENCE, Stage, eventually, say},
};
use testkit::{Daemon, Direction, Proxy};

/// A source with these settings for its role, such as temp_file_limit, and rows of this payload in its table.
async fn limited(test: &str, settings: &[&str], rows: u32, payload: &str) -> (Stage, String) {
    let mut stage = Stage::shared(test).await;
    stage.source = "delivery.in_flight_max = 50\n".into();
    stage
        .sql(&format!(
            "ALTER TABLE outbox ALTER payload TYPE text;
             INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
             SELECT 'Order', n, 'E', {payload} FROM generate_series(1, {rows}) n"
        ))
        .await;
    let config = stage.run_printed_sql().await;
    for setting in settings {
        stage.sql(&format!("ALTER ROLE \"role_{}\" SET {setting}", stage.name)).await;
    }
    (stage, config)
}

/// Checks that all rows arrive once, in insert order.
async fn arrive(inbox: &mut Inbox, rows: u32) {
    for n in 1..=rows {
        assert_eq!(text_header(&inbox.next().await, "aggregate-id"), n.to_string());
    }
    inbox.stays_empty().await;
}

#[tokio::test]
async fn a_table_above_half_of_temp_file_limit_is_read_in_its_transaction() {
    const ROWS: u32 = 3000;
    let settings = ["temp_file_limit = '2MB'", "work_mem = '64MB'"];
    let (stage, config) = limited("held", &settings, ROWS, "repeat(md5(n::text), 16)").await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let broker = stage.amqp_url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0.parse().unwrap();
    let proxy = Proxy::start(broker);
    let mut daemon = Daemon::start(&config.replace(&format!(":{broker}/"), &format!(":{}/", proxy.port())));
    eventually("it begins", async || daemon.log().contains("publishing rows of the table")).await;
    proxy.stall_only(Direction::ToClient);
    let client = stage.client().await;
    let held = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outboxd orders'
                AND state = 'idle in transaction'";
    eventually("a transaction is open", async || client.execute(held, &[]).await.unwrap() == 1).await;
    assert!(daemon.log().contains("too large for a copy of its rows"), "{}", daemon.log());
    let alter = "SET lock_timeout = '100ms'; ALTER TABLE outbox ADD COLUMN note text";
    let refused = client.batch_execute(alter).await.expect_err("the table is locked");
    assert_eq!(refused.code().map(|code| code.code()), Some("55P03"));
    proxy.resume();
    arrive(&mut inbox, ROWS).await;
    daemon.wait_ready(PATIENCE).await;
    assert_eq!(client.execute(held, &[]).await.unwrap(), 0);
}

/// A column added with a default makes the copy larger than the table, which does not store it for older rows.
#[tokio::test]
async fn a_copy_that_meets_temp_file_limit_gives_way_to_a_transaction_and_every_row_comes_once() {
    const ROWS: u32 = 3000;
    let settings = ["temp_file_limit = '3MB'", "work_mem = '1MB'", "enable_sort = off"];
    let (stage, config) = limited("no_room", &settings, ROWS, "'{}'").await;
    stage
        .sql("CREATE INDEX ON outbox (seq); ALTER TABLE outbox ADD note text DEFAULT repeat('x', 2000)")
        .await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let mut daemon = Daemon::start(&config);
    arrive(&mut inbox, ROWS).await;
    daemon.wait_ready(PATIENCE).await;
    let log = daemon.log();
    assert!(log.contains("no room for a copy of the rows") && log.contains("53400"), "{log}");
    assert!(!log.contains("too large"), "{log}");
    assert_eq!(daemon.reconnects("orders", "postgres").await, 0);

    let said = say(&daemon, &["replay", "--source", "orders"]).await;
    assert!(said.status == 0 && said.stderr.contains("no room for a copy"), "{}", said.stderr);
    arrive(&mut inbox, ROWS).await;
}

/// The lock is a query of its own, and an older snapshot would show an empty table.
#[tokio::test]
async fn a_replay_with_a_right_to_columns_alone_sees_what_it_waited_for() {
    let stage = Stage::shared("replay_waits").await;
    let config = stage.run_printed_sql().await;
    stage
        .sql(&format!(
            "REVOKE SELECT ON outbox FROM \"role_{name}\";
             GRANT SELECT (id, aggregatetype, aggregateid, type, payload, headers, seq, created_at) ON outbox TO \"role_{name}\"",
            name = stage.name
        ))
        .await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let mut daemon = Daemon::start(&config);
    daemon.wait_ready(PATIENCE).await;
    stage.write_unseen("a", "E").await;
    inbox.next().await;
    // A separate connection: within a transaction, the activity of other sessions does not change.
    let (writer, watcher) = (stage.client().await, stage.client().await);
    writer
        .batch_execute(
            "BEGIN; CREATE TEMP TABLE kept AS SELECT * FROM outbox; TRUNCATE outbox;
             INSERT INTO outbox OVERRIDING SYSTEM VALUE SELECT * FROM kept",
        )
        .await
        .unwrap();
    let commit = async {
        let waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outboxd replay orders'
                     AND wait_event_type = 'Lock'";
        eventually("replay waits", async || watcher.execute(waits, &[]).await.unwrap() == 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        writer.batch_execute("COMMIT").await.unwrap();
    };
    let (said, ()) = tokio::join!(say(&daemon, &["replay", "--source", "orders"]), commit);
    assert_eq!(said.status, 0, "{}", said.stderr);
    // Once from the stream as a new row, and once from the table.
    let mut replayed = 0;
    for _ in 0..2 {
        let delivery = inbox.next().await;
        let headers = delivery.properties.headers().as_ref();
        replayed +=
            usize::from(headers.is_some_and(|headers| headers.inner().contains_key("outbox-replayed")));
    }
    assert_eq!(replayed, 1, "{}{}", said.stdout, said.stderr);
}
