//! `Type=notify`: ready whatever the servers do, and the states on the status line.

use std::time::{Duration, Instant};

use crate::host::{BY_SOCKET, Host};

#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn an_absent_database_and_a_backlog_longer_than_the_start_limit_are_ready() {
    const START_LIMIT: Duration = Duration::from_secs(4);
    const ROWS: usize = 60_000;
    let slowly = format!("drain_timeout_s = 1\n{BY_SOCKET}\n    delivery.in_flight_max = 1\n");
    let host = Host::configured(&slowly).await;
    host.drop_in("outboxd.service", &format!("TimeoutStartSec={}", START_LIMIT.as_secs())).await;
    host.bind("orders").await;
    host.insert(ROWS).await;
    let still_the_first = async |state: &str| {
        let until = Instant::now() + START_LIMIT * 3;
        while Instant::now() < until {
            assert_eq!(host.root.property("outboxd", "ActiveState").await, "active");
            let status = host.status("outboxd").await;
            assert!(status.starts_with(state), "{status}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(host.restarts("outboxd").await, 0);
    };

    host.root.shell("systemctl stop postgresql").await;
    let began = Instant::now();
    host.root.shell("systemctl start outboxd").await;
    assert!(began.elapsed() < START_LIMIT, "{:?}", began.elapsed());
    host.until_status("outboxd", "orders: connecting, cannot connect to PostgreSQL").await;
    still_the_first("orders: connecting, ").await;

    // The database comes. Publishing its backlog takes longer than the limit.
    host.root.shell("systemctl start postgresql").await;
    host.until_status("outboxd", "orders: backlog").await;
    still_the_first("orders: backlog").await;
    // The same at a start.
    host.root.shell("systemctl restart outboxd").await;
    host.until_status("outboxd", "orders: backlog").await;
    still_the_first("orders: backlog").await;
    let journal = host.root.journal("outboxd").await;
    assert!(!journal.contains("timed out"), "{journal}");
}

#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn the_status_line_shows_the_states_and_no_secret() {
    let two = "
        [rabbitmq]
        url = \"amqp://guest:guest@127.0.0.1:5672/%2f\"
        [sources.orders]
        postgres.url = \"postgresql://outboxd@/orders?host=/run/postgresql\"
        [sources.absent]
        postgres.url = \"postgresql://outboxd:hunter2@127.0.0.1:1/absent\"
    ";
    let host = Host::start().await;
    host.write("/etc/outboxd/outboxd.toml", BY_SOCKET, 0o644);
    host.root.shell("cd /; outboxd setup --print-sql | sudo -u postgres psql -q -d orders").await;
    host.write("/etc/outboxd/outboxd.toml", two, 0o644);
    host.root.shell("systemctl start outboxd").await;
    let status =
        host.until_status("outboxd", "2 sources: 1 connecting, 1 streaming; absent: connecting, ").await;
    assert!(status.contains("127.0.0.1:1") && status.len() <= 400, "{status}");
    // An unroutable row halts a source, which then comes first.
    host.insert(1).await;
    let status = host.until_status("outboxd", "2 sources: 1 connecting, 1 halted; orders: halted, ").await;
    assert!(status.len() <= 400, "{status}");
    assert!(!host.root.shell("systemctl status outboxd; systemctl show outboxd").await.contains("hunter2"));
    host.bind("orders").await;
    host.until_status("outboxd", "1 streaming; absent").await;
}

/// A drain may take longer than systemd's own limit for the stop, up to `drain_timeout_s`.
#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn a_drain_longer_than_the_stop_limit_is_not_cut_short() {
    let host = Host::configured(&format!("drain_timeout_s = 40\n{BY_SOCKET}")).await;
    host.drop_in("outboxd.service", "TimeoutStopSec=3").await;
    host.bind("orders").await;
    host.root.shell("systemctl start outboxd").await;
    host.until_status("outboxd", "orders: streaming").await;
    // RabbitMQ does not answer for longer than the stop limit.
    host.root.shell("pkill -STOP beam.smp").await;
    host.insert(5).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    host.root.shell("systemctl stop --no-block outboxd").await;
    host.until_status("outboxd", "draining; orders: ").await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(host.root.property("outboxd", "ActiveState").await, "deactivating");
    host.root.shell("pkill -CONT beam.smp").await;
    host.root.wait_for("outboxd", "ActiveState", "inactive", crate::host::PATIENCE).await;
    let journal = host.root.journal("outboxd").await;
    assert_eq!(host.root.property("outboxd", "Result").await, "success", "{journal}");
    assert!(journal.contains("drained"), "{journal}");
}
