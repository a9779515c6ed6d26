//! Nodes that stop, hang or close connections under load, and networks that fail.

use std::time::Duration;

use crate::stage::{PATIENCE, Stage, eventually, source, until, until_alive, until_state};
use testkit::{
    Daemon, Direction, Postgres, PostgresOptions, Proxy, RabbitMq, RabbitMqOptions, shared_postgres,
    shared_rabbitmq,
};

const IN_FLIGHT_MAX: usize = 64;

/// Messages that must arrive before and after each disturbance.
const FLOW: usize = 100;

fn under_load(stage: &mut Stage, wal_sender_timeout_ms: u32) {
    stage.workload.pause = Duration::from_millis(10);
    stage.source = format!(
        "delivery.in_flight_max = {IN_FLIGHT_MAX}\npostgres.wal_sender_timeout_ms = {wal_sender_timeout_ms}"
    );
}

/// Ends the load and checks that every row arrived, and that the daemon repeated at most the messages in flight at each
/// disturbance.
async fn judge(stage: &Stage, daemon: &mut Daemon, disturbances: usize) {
    let verdict = stage.verdict().await;
    let sent = daemon.count("orders", "messages_published_total").await;
    let repeated = sent - stage.oracle.committed_count();
    let allowed = disturbances * IN_FLIGHT_MAX;
    println!("{repeated} sent again, {allowed} allowed");
    assert!(verdict.keeps_promises(), "{verdict}");
    assert!(repeated <= allowed, "{repeated} sent again, {allowed} allowed");
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn a_broker_that_blocks_restarts_or_dies() {
    let broker = RabbitMq::start(RabbitMqOptions::default()).await;
    let mut stage = Stage::on("broker", shared_postgres().await, &broker).await;
    under_load(&mut stage, 2000);
    // Six seconds of this exceed the socket buffers between walsender and daemon, so the walsender itself waits.
    stage.workload.filler_bytes = 8000;
    stage.workload.pause = Duration::from_millis(20);
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    let writing = stage.keep_writing();
    stage.receive_more(FLOW).await;

    let client = stage.client().await;
    let walsender = async || -> i32 {
        let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
        client.query_one(sql, &[&stage.slot()]).await.unwrap().get(0)
    };
    let pid = walsender().await;
    broker.block().await;
    let blocked = until(&daemon, "orders", |shown| shown["state"] == "blocked").await;
    assert!(blocked["reason"].as_str().unwrap().contains("memory"), "{blocked}");
    let (status, text) = daemon.readyz().await;
    assert!(status == 503 && text.contains("memory"), "{status} {text}");
    let received = stage.oracle.received_count();
    // Longer than wal_sender_timeout, and than the daemon's limit for a silent server.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(stage.oracle.received_count() <= received + IN_FLIGHT_MAX, "it is not blocked");
    assert_eq!(source(&daemon, "orders").await["state"], "blocked");
    broker.unblock().await;
    until(&daemon, "orders", |shown| shown["state"] == "streaming").await;
    stage.receive_more(FLOW).await;
    assert_eq!(walsender().await, pid, "the replication connection did not survive");
    for side in ["postgres", "rabbitmq"] {
        assert_eq!(daemon.reconnects("orders", side).await, 0, "{side}");
    }
    assert_eq!(stage.oracle.verdict().duplicates, 0);

    broker.close_all_connections().await;
    eventually("the loss is noticed", async || daemon.reconnects("orders", "rabbitmq").await > 0).await;
    stage.receive_more(FLOW).await;

    broker.restart().await;
    stage.receive_more(FLOW).await;

    broker.kill9().await;
    until(&daemon, "orders", |shown| shown["state"] == "connecting").await;
    assert_eq!(daemon.readyz().await.0, 503);
    broker.start_again().await;
    stage.receive_more(FLOW).await;
    writing.stop().await;
    judge(&stage, &mut daemon, 3).await;
}

#[tokio::test]
async fn a_postgresql_that_restarts_or_dies_or_ends_our_connections() {
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let mut stage = Stage::on("server", &postgres, shared_rabbitmq().await).await;
    under_load(&mut stage, 2000);
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    let writing = stage.keep_writing();
    stage.receive_more(FLOW).await;

    let backends = async |name: &str| -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND datname = $2";
        let rows = stage.client().await.query(sql, &[&name, &stage.name]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let terminate = async |name: &str| {
        let pids = backends(name).await;
        assert!(!pids.is_empty(), "there is no backend of '{name}'");
        for pid in &pids {
            stage.client().await.execute("SELECT pg_terminate_backend($1)", &[pid]).await.unwrap();
        }
        pids
    };
    // The monitor reconnects by itself.
    eventually("the monitor is there", async || !backends("outboxd monitor").await.is_empty()).await;
    let monitor = terminate("outboxd monitor").await;
    stage.receive_more(FLOW).await;
    eventually("the monitor is back", async || {
        backends("outboxd monitor").await.iter().any(|pid| !monitor.contains(pid))
    })
    .await;
    assert_eq!(daemon.reconnects("orders", "postgres").await, 0);
    assert_eq!(stage.oracle.verdict().duplicates, 0);

    terminate("outboxd orders").await;
    eventually("the loss is noticed", async || daemon.reconnects("orders", "postgres").await > 0).await;
    stage.receive_more(FLOW).await;

    postgres.restart().await;
    stage.receive_more(FLOW).await;

    postgres.stop_immediate().await;
    until(&daemon, "orders", |shown| shown["state"] == "connecting").await;
    assert_eq!(daemon.readyz().await.0, 503);
    postgres.start_again().await;
    stage.receive_more(FLOW).await;

    postgres.kill9().await;
    postgres.start_again().await;
    stage.receive_more(FLOW).await;
    writing.stop().await;
    judge(&stage, &mut daemon, 4).await;
}

#[tokio::test]
async fn connections_that_are_cut() {
    let mut stage = Stage::shared("cut").await;
    under_load(&mut stage, 2000);
    stage.consume().await;
    let postgres = Proxy::start(shared_postgres().await.port());
    let broker = Proxy::start(shared_rabbitmq().await.port());
    let mut daemon = Daemon::start(&stage.config_through(&postgres, &broker));
    daemon.wait_ready(PATIENCE).await;
    let writing = stage.keep_writing();
    let seed = fastrand::u64(..);
    println!("seed of the cuts: {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cuts = 0;
    for (side, proxy) in [("postgres", &postgres), ("rabbitmq", &broker)] {
        for direction in [None, Some(Direction::ToServer), Some(Direction::ToClient)] {
            stage.receive_more(FLOW).await;
            let before = daemon.reconnects("orders", side).await;
            match direction {
                None => proxy.cut(),
                Some(direction) => proxy.cut_after(direction, random.u64(1..2000)),
            }
            eventually("the cut is noticed", async || daemon.reconnects("orders", side).await > before).await;
            cuts += 1;
        }
    }
    stage.receive_more(FLOW).await;
    writing.stop().await;
    judge(&stage, &mut daemon, cuts).await;
}

#[tokio::test]
async fn connections_that_fall_silent() {
    let mut stage = Stage::shared("stall").await;
    under_load(&mut stage, 1500);
    stage.rabbitmq = "confirm_timeout_ms = 1500\nheartbeat_s = 2".to_owned();
    stage.consume().await;
    let postgres = Proxy::start(shared_postgres().await.port());
    let broker = Proxy::start(shared_rabbitmq().await.port());
    let mut daemon = Daemon::start(&stage.config_through(&postgres, &broker));
    daemon.wait_ready(PATIENCE).await;
    let writing = stage.keep_writing();
    const SILENT: &[&str] = &["PostgreSQL has been silent"];
    // The second text when some confirms arrived just before the stall.
    const UNCONFIRMED: &[&str] = &["confirmed nothing", "gets no confirm, while others are confirmed"];
    let mut stalls = 0;
    for (proxy, direction, reasons) in [
        (&postgres, None, SILENT),
        (&postgres, Some(Direction::ToClient), SILENT),
        (&broker, None, UNCONFIRMED),
        (&broker, Some(Direction::ToClient), UNCONFIRMED),
    ] {
        stage.receive_more(FLOW).await;
        match direction {
            None => proxy.stall(),
            Some(direction) => proxy.stall_only(direction),
        }
        let noticed = until(&daemon, "orders", |shown| shown["state"] == "connecting").await;
        println!("{noticed}");
        let reason = noticed["reason"].as_str().unwrap();
        assert!(reasons.iter().any(|expected| reason.contains(expected)), "{noticed}");
        proxy.resume();
        daemon.wait_ready(PATIENCE).await;
        stalls += 1;
    }
    stage.receive_more(FLOW).await;
    writing.stop().await;
    stage.verdict().await;

    // Without traffic, only a missing heartbeat shows the outage.
    broker.stall();
    let noticed = until(&daemon, "orders", |shown| shown["state"] == "connecting").await;
    println!("{noticed}");
    broker.resume();
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("after", 1, "OrderCreated").await;
    judge(&stage, &mut daemon, stalls).await;
}

/// A fast shutdown of PostgreSQL waits until walsenders have everything confirmed, and tells their clients nothing. A source that
/// cannot confirm must not block the shutdown.
#[tokio::test]
async fn a_postgresql_can_shut_down_while_nothing_can_be_confirmed() {
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let mut stage = Stage::on("shutdown", &postgres, shared_rabbitmq().await).await;
    stage.workload.transactions = 50;
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write().await;
    until(&daemon, "orders", |shown| shown["state"] == "halted").await;

    tokio::time::timeout(PATIENCE, postgres.stop_fast()).await.expect("the server goes down");
    postgres.start_again().await;
    stage.consume().await;
    assert!(stage.verdict().await.keeps_promises());
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// During an outage the operator needs to see the WAL that the slot retains, also with a daemon that has never reached the
/// broker, and with a halted source.
#[tokio::test]
async fn the_wal_that_a_slot_holds_back_is_shown_while_the_broker_is_down_and_while_the_source_is_halted() {
    let broker = RabbitMq::start(RabbitMqOptions::default()).await;
    let mut stage = Stage::on("gauges", shared_postgres().await, &broker).await;
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    broker.stop().await;
    until(&daemon, "orders", |shown| shown["state"] == "connecting").await;
    wal_is_seen_to_grow(&stage, &daemon, 1).await;

    daemon.kill9().await;
    daemon.start_again();
    until_alive(&daemon).await;
    wal_is_seen_to_grow(&stage, &daemon, 2).await;

    broker.start_again().await;
    daemon.wait_ready(PATIENCE).await;
    // A row that cannot become a message halts the source.
    stage
        .sql("INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('Order', 'a', repeat('t', 300))")
        .await;
    until_state(&daemon, "orders", "halted").await;
    // The earlier WAL is confirmed, and the metric shows it.
    eventually("the slot is seen anew", async || daemon.metric(LAG).await < Some(GROWTH)).await;
    wal_is_seen_to_grow(&stage, &daemon, 3).await;
}

const RETAINED: &str = "outboxd_slot_retained_bytes{source=\"orders\"}";
const LAG: &str = "outboxd_lag_bytes{source=\"orders\"}";
/// Growth of the retained WAL, in bytes.
const GROWTH: f64 = 1_000_000.0;

/// Writes a row of a megabyte, and waits until the retained WAL has grown by as much.
async fn wal_is_seen_to_grow(stage: &Stage, daemon: &Daemon, sequence: i64) {
    eventually("the slot is seen", async || daemon.metric(RETAINED).await.is_some()).await;
    let shown = async || [daemon.metric(RETAINED).await.unwrap(), daemon.metric(LAG).await.unwrap()];
    let before = shown().await;
    stage.sql("CREATE TABLE IF NOT EXISTS noise (bytes text); ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL").await;
    stage.sql("INSERT INTO noise SELECT repeat('x', 1000000)").await;
    stage.write_row("wal", sequence, "OrderCreated").await;
    eventually("the WAL is seen to grow", async || {
        let now = shown().await;
        now.iter().zip(before).all(|(now, before)| *now >= before + GROWTH)
    })
    .await;
}
