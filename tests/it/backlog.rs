//! Rows older than the slot: all are published, once, in order, before the stream, whatever interrupts the backlog.

use std::time::Duration;

use crate::{
    broker::Broker,
    inbox::text_header,
    stage::{PATIENCE, Stage, alive, eventually, source, until_state},
};
use testkit::{Committed, Daemon, Direction, Proxy, process, shared_postgres};

/// Writes rows whose `seq` runs against their order in the table, and tells the oracle.
async fn write_backlog(stage: &Stage, count: i64) {
    let client = stage.client().await;
    let rows = client
        .query(
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq) OVERRIDING SYSTEM VALUE
             SELECT gen_random_uuid(), 'Order', 'b' || n % 50, 'E', jsonb_build_object('n', n), n
             FROM generate_series($1::int8, 1, -1) n
             RETURNING id::text, aggregateid, seq, payload::text",
            &[&count],
        )
        .await
        .unwrap();
    client.batch_execute(&format!("ALTER TABLE outbox ALTER seq RESTART WITH {}", count + 1)).await.unwrap();
    stage.oracle.committed(rows.iter().map(|row| Committed {
        id: row.get(0),
        aggregate: row.get(1),
        sequence: row.get(2),
        // One transaction number for all rows, so that the oracle expects the order of `seq`.
        transaction: u64::MAX,
        index: usize::try_from(row.get::<_, i64>(2)).unwrap(),
        body: row.get(3),
    }));
}

/// Names of the stage's slots, permanent and temporary.
async fn slots(stage: &Stage) -> Vec<String> {
    let select = "SELECT slot_name::text FROM pg_replication_slots WHERE starts_with(slot_name, $1)";
    let rows = stage.client().await.query(select, &[&stage.slot()]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until the server has dropped the temporary slot of a lost connection, and no slot is left.
async fn no_slot_is_left(stage: &Stage) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let slots = slots(stage).await;
        if slots.is_empty() {
            return;
        }
        assert!(!slots.contains(&stage.slot()), "a permanent slot though the backlog was not finished");
        assert!(std::time::Instant::now() < deadline, "{slots:?} are still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until that many messages have arrived.
async fn until_received(stage: &Stage, count: usize, daemon: &Daemon) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while stage.oracle.received_count() < count {
        assert!(std::time::Instant::now() < deadline, "not {count} in time: {}", daemon.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Number of messages, after no more arrive.
async fn all_received(stage: &Stage) -> usize {
    let mut count = usize::MAX;
    while count != stage.oracle.received_count() {
        count = stage.oracle.received_count();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    count
}

/// Writers write before, during and after the change from the backlog to the stream.
#[tokio::test]
async fn five_thousand_rows_come_in_sequence_and_the_stream_behind_them() {
    let mut stage = Stage::shared("backlog").await;
    write_backlog(&stage, 5000).await;
    stage.consume().await;
    stage.workload.transactions = 600;
    stage.workload.pause = Duration::from_millis(10);
    let (mut daemon, ()) = tokio::join!(stage.relay_as_printed_role(), stage.write());
    stage.verdict().await.assert_delivered(0);
    assert_eq!(slots(&stage).await, [stage.slot()]);
    let log = daemon.log();
    assert!(log.contains("by the sequence column"), "{log}");
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn without_a_sequence_created_at_decides_and_skip_skips() {
    let mut stage = Stage::shared("created").await;
    stage
        .sql(
            "ALTER TABLE outbox DROP COLUMN seq;
             INSERT INTO outbox (aggregatetype, aggregateid, type, payload, created_at)
             SELECT 'Order', 'a', 'E', to_jsonb(n), to_timestamp(n) FROM generate_series(100, 1, -1) n;
             INSERT INTO outbox (aggregatetype, aggregateid, type, payload, created_at)
             SELECT 'Order', 'a', 'E', to_jsonb(n), to_timestamp(1000) FROM generate_series(101, 150) n;",
        )
        .await;
    stage.source = format!(
        "[sources.skipping]\npostgres.url = \"{}\"\npostgres.slot = \"{}_skipping\"\nbacklog = \"skip\"\n",
        stage.postgres_url,
        stage.slot()
    );
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let daemon = stage.relay_as_printed_role().await;
    stage.sql("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', 'E', '151')").await;
    let (mut published, mut skipped) = (Vec::new(), Vec::new());
    for _ in 0..152 {
        let delivery = inbox.next().await;
        let n: u32 = String::from_utf8_lossy(&delivery.data).parse().unwrap();
        match text_header(&delivery, "outbox-source").as_str() {
            "orders" => published.push(n),
            _ => skipped.push(n),
        }
    }
    assert_eq!(published, (1..=151).collect::<Vec<_>>());
    assert_eq!(skipped, [151]);
    inbox.stays_empty().await;
    drop(daemon);
}

/// Each interrupted attempt leaves no slot. The attempt that completes publishes every row.
#[tokio::test]
async fn a_backlog_that_is_cut_short_starts_over_and_loses_nothing() {
    let mut stage = Stage::shared("cut").await;
    write_backlog(&stage, 2000).await;
    stage.consume().await;
    let broker = stage.amqp_url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0.parse().unwrap();
    let proxy = Proxy::start(broker);
    // Some messages pass, then no confirm does: the backlog cannot end.
    let begin_and_stall = async |daemon: &Daemon| {
        proxy.resume();
        proxy.throttle(100_000);
        until_received(&stage, stage.oracle.received_count() + 200, daemon).await;
        proxy.stall_only(Direction::ToClient);
        assert_eq!(slots(&stage).await, [format!("{}_backlog", stage.slot())]);
    };
    let config = stage.config().replace(&format!(":{broker}/"), &format!(":{}/", proxy.port()));
    let mut daemon = Daemon::prepare(&config);
    let text = std::fs::read_to_string(daemon.config_file()).unwrap();
    std::fs::write(daemon.config_file(), format!("drain_timeout_s = 1\n{text}")).unwrap();
    for life in 0..3 {
        all_received(&stage).await;
        daemon.start_again();
        begin_and_stall(&daemon).await;
        if life < 2 {
            daemon.kill9().await;
        } else {
            // The drain timeout is too short: the daemon exits with 1.
            let status = daemon.sigterm(PATIENCE).await;
            assert_eq!(status.code(), Some(1), "{}", daemon.log());
        }
        no_slot_is_left(&stage).await;
    }

    // The drain timeout is long enough: the backlog is completed, and no restart repeats it.
    let cut_short = all_received(&stage).await;
    let mut daemon = Daemon::start(&config);
    begin_and_stall(&daemon).await;
    process::signal(&[daemon.pid()], "TERM");
    while !daemon.log().contains("draining") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.resume();
    assert!(daemon.wait(PATIENCE).await.success(), "{}", daemon.log());
    assert_eq!(slots(&stage).await, [stage.slot()]);
    assert!(stage.verdict().await.lost.is_empty());
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    stage.workload.transactions = 50;
    stage.write().await;
    let verdict = stage.verdict().await;
    // Copies of another snapshot have its position. Only that may be wrong.
    assert!(
        verdict.lost.is_empty() && verdict.phantoms.is_empty() && verdict.altered.is_empty(),
        "{verdict}"
    );
    assert!(verdict.out_of_order.is_empty() && verdict.transaction_out_of_order.is_empty(), "{verdict}");
    assert!(verdict.position_fell.is_empty(), "{verdict}");
    assert!(verdict.received <= cut_short + verdict.committed, "the last life was clean: {verdict}");
}

/// A backlog of 100 MB waits for a blocked broker, then for a slow one. Memory stays within the in-flight window.
#[tokio::test]
async fn a_large_backlog_before_a_blocked_and_slow_broker_takes_no_memory() {
    const ROWS: usize = 2000;
    let (broker, _alone) = Broker::alone().await;
    let stage = Stage::on("large", shared_postgres().await, broker.node).await;
    stage
        .sql(&format!(
            "ALTER TABLE outbox ALTER payload TYPE text;
             INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
             SELECT 'Order', n, 'E', repeat(md5(n::text), 1600) FROM generate_series(1, {ROWS}) n"
        ))
        .await;
    let proxy = Proxy::start(broker.node.port());
    proxy.throttle(30_000_000);
    let mut inbox = stage.inbox(&["Order.events"]).await;
    broker.node.block().await;
    let config = stage.config().replace(&format!(":{}/", broker.node.port()), &format!(":{}/", proxy.port()));
    let daemon = alive(&config).await;
    let reason = until_state(&daemon, "orders", "blocked").await;
    assert!(reason.contains("memory"), "{reason}");
    // Meanwhile no lock is on the table, and no snapshot holds vacuum back.
    let in_transaction = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outboxd orders'
                          AND backend_type = 'client backend' AND (state = 'idle in transaction' OR backend_xmin IS NOT NULL)";
    let client = stage.client().await;
    eventually("the rows are copied", async || client.query(in_transaction, &[]).await.unwrap().is_empty())
        .await;
    stage.sql("SET lock_timeout = '60s'; ALTER TABLE outbox ADD COLUMN note text").await;
    stage.sql("SET lock_timeout = '60s'; ALTER TABLE outbox DROP COLUMN note").await;
    // Long enough for an unbounded reader to read all rows.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let blocked = daemon.memory_peak_mb();
    let shown = source(&daemon, "orders").await;
    assert_eq!((shown["state"].as_str(), shown["confirmed"].as_u64()), (Some("blocked"), Some(0)));
    assert!(shown["in_flight"].as_u64() <= Some(400), "16 MiB are some 330 of them: {shown:#}");
    broker.node.unblock().await;
    for n in 1..=ROWS {
        let delivery = inbox.next().await;
        assert_eq!(delivery.data.len(), 51_200);
        assert_eq!(text_header(&delivery, "aggregate-id"), n.to_string());
    }
    until_state(&daemon, "orders", "streaming").await;
    let peak = daemon.memory_peak_mb();
    println!("peak memory of the daemon: {blocked} MB while the broker blocked, {peak} MB in the end");
    assert!(peak < 100, "{peak} MB for a backlog of 100 MB");
    inbox.stays_empty().await;
}
