//! The watchdog: a process that hangs is restarted, and a source that waits is left alone.

use std::time::Duration;

use testkit::{Consumer, Oracle, Workload};

use crate::host::{BY_SOCKET, Host, PATIENCE};

/// Shorter than in the units, so that a test takes a minute.
const WATCHDOG: Duration = Duration::from_secs(8);

/// Time in which a watchdog that hears nothing has struck twice.
const LONG: Duration = Duration::from_secs(20);

async fn watched(host: &Host, unit: &str) {
    host.drop_in(unit, &format!("WatchdogSec={}\nTimeoutStartSec=5", WATCHDOG.as_secs())).await;
}

#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn a_process_that_hangs_is_restarted_and_loses_and_reorders_nothing() {
    let host = Host::start().await;
    let oracle = Oracle::default();
    let workload = Workload {
        transactions: usize::MAX,
        writers: 2,
        rollback_percent: 5,
        pause: Duration::from_millis(20),
        ..Workload::default()
    };
    let url = host.database_url().await;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    host.sql("DROP TABLE outbox").await;
    workload.create_tables(&client).await;
    host.write(
        "/etc/outboxd/outboxd.toml",
        &format!("{BY_SOCKET}\n    delivery.in_flight_max = 64\n"),
        0o644,
    );
    host.root.shell("cd /; outboxd setup --print-sql | sudo -u postgres psql -q -d orders").await;
    watched(&host, "outboxd.service").await;
    let _consumer = Consumer::start(&host.broker_url().await, "Order.events", "orders", "#", &oracle).await;
    let writing = tokio::spawn({
        let (workload, oracle, url) = (workload.clone(), oracle.clone(), url.clone());
        async move { workload.run(&url, &oracle).await }
    });
    host.root.shell("systemctl start outboxd").await;
    host.until_status("outboxd", "orders: streaming").await;
    for hang in 1..=2 {
        let before = oracle.received_count();
        while oracle.received_count() < before + 100 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        host.root.shell("kill -STOP $(systemctl show --value --property=MainPID outboxd)").await;
        host.until_restarts("outboxd", hang).await;
        host.until_status("outboxd", "orders: streaming").await;
    }
    workload.stopped.store(true, std::sync::atomic::Ordering::Relaxed);
    writing.await.unwrap();
    let verdict = oracle.settle(PATIENCE, Duration::from_secs(2)).await;
    println!("{verdict}");
    // At most what was in flight, twice, and the traffic since the last report of the position.
    verdict.assert_delivered(2 * 128);
    let journal = host.root.journal("outboxd").await;
    assert_eq!(journal.matches("Watchdog timeout (limit 8s)!").count(), 2, "{journal}");
    // A killed process leaves no core.
    assert!(journal.contains("code=killed, status=9/KILL") && !journal.contains("dumped"), "{journal}");
}

/// A call that blocks is a hang of the program itself: here the open of a pipe that nobody writes to, in the place of a
/// password's file.
#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn a_loop_that_is_stuck_in_a_call_is_restarted() {
    let host = Host::configured(BY_SOCKET).await;
    host.sql("ALTER ROLE outboxd PASSWORD 'one'").await;
    let by_password = "
        [rabbitmq]
        url = \"amqp://guest:guest@127.0.0.1:5672/%2f\"
        [sources.orders]
        postgres.url = \"postgresql://outboxd@127.0.0.1/orders\"
        postgres.password_file = \"/etc/outboxd/orders-password\"
    ";
    host.write("/etc/outboxd/outboxd.toml", by_password, 0o644);
    host.write("/etc/outboxd/orders-password", "one", 0o644);
    watched(&host, "outboxd.service").await;
    host.root.shell("systemctl start outboxd").await;
    host.until_status("outboxd", "orders: streaming").await;
    host.root.shell("cd /etc/outboxd; mv orders-password kept; mkfifo -m 644 orders-password").await;
    host.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots").await;
    host.until_restarts("outboxd", 1).await;
    let journal = host.root.journal("outboxd").await;
    assert!(journal.contains("Watchdog timeout (limit 8s)!"), "{journal}");
    // The next start reads the file, too, before it is ready: TimeoutStartSec ends it.
    host.root.shell("cd /etc/outboxd; mv kept orders-password").await;
    host.until_status("outboxd", "orders: streaming").await;
}

#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn a_source_that_waits_is_left_alone_for_as_long_as_the_cause_lasts() {
    let host = Host::configured(BY_SOCKET).await;
    watched(&host, "outboxd.service").await;
    watched(&host, "outboxd@second.service").await;
    let shell = async |script: &str| host.root.shell(script).await;
    shell("systemctl start outboxd").await;
    host.until_status("outboxd", "orders: streaming").await;
    let process = host.root.property("outboxd", "MainPID").await;
    let lasts = async |what: &str, status: &str| {
        host.until_status("outboxd", status).await;
        tokio::time::sleep(LONG).await;
        let status = host.status("outboxd").await;
        assert_eq!(host.root.property("outboxd", "MainPID").await, process, "{what}: {status}");
        println!("{what}: {status}");
    };
    lasts("nothing to do", "orders: streaming").await;

    host.insert(1).await;
    lasts("no queue is bound", "orders: halted").await;
    host.bind("orders").await;
    host.until_status("outboxd", "orders: streaming").await;

    shell("rabbitmqctl -q set_vm_memory_high_watermark absolute 1").await;
    host.insert(1).await;
    lasts("RabbitMQ blocks publishers", "orders: blocked").await;
    shell("rabbitmqctl -q set_vm_memory_high_watermark 0.6").await;
    host.until_status("outboxd", "orders: streaming").await;

    shell(r#"rabbitmqctl -q set_policy full '^orders$' '{"max-length":1,"overflow":"reject-publish"}'"#)
        .await;
    host.insert(20).await;
    lasts("a full queue nacks", "orders: blocked").await;
    shell("rabbitmqctl -q clear_policy full; rabbitmqctl -q purge_queue orders").await;
    host.until_status("outboxd", "orders: streaming").await;

    shell("pkill -STOP beam.smp").await;
    host.insert(20).await;
    lasts("confirms do not come", "orders: ").await;
    shell("pkill -CONT beam.smp").await;
    host.until_status("outboxd", "orders: streaming").await;

    shell("systemctl stop rabbitmq-server").await;
    lasts("RabbitMQ is away", "orders: connecting").await;
    shell("systemctl start rabbitmq-server").await;
    host.until_status("outboxd", "orders: streaming").await;

    shell("systemctl stop postgresql").await;
    lasts("PostgreSQL is away", "orders: connecting").await;
    shell("systemctl start postgresql").await;
    host.until_status("outboxd", "orders: streaming").await;

    shell("pkill -STOP postgres").await;
    lasts("PostgreSQL does not answer", "orders: ").await;
    shell("pkill -CONT postgres").await;
    host.until_status("outboxd", "orders: streaming").await;

    // A second instance, by the template unit.
    let second = format!("admin.listen = \"127.0.0.1:9465\"\n{BY_SOCKET}");
    host.write("/etc/outboxd/second.toml", &second, 0o644);
    shell("systemctl start outboxd@second").await;
    host.until_status("outboxd@second", "orders: standby").await;
    let standby = host.root.property("outboxd@second", "MainPID").await;
    lasts("another instance stands by", "orders: streaming").await;
    assert_eq!(host.root.property("outboxd@second", "MainPID").await, standby);
    shell("systemctl stop outboxd").await;
    host.until_status("outboxd@second", "orders: streaming").await;
    for unit in ["outboxd", "outboxd@second"] {
        assert_eq!(host.restarts(unit).await, 0);
        assert!(!host.root.journal(unit).await.contains("outboxd hangs"));
    }
}
