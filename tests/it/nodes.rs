//! The test kit itself: private nodes start, stop in every way, keep their data, and leave nothing behind.

use crate::stage::until_alive;
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use testkit::{
    Authority, Consumer, Daemon, Oracle, Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, Workload,
    process, run, shared_postgres, shared_rabbitmq, unique,
};

#[tokio::test]
async fn postgres_keeps_its_data_through_every_kind_of_stop() {
    let server = Postgres::start(PostgresOptions::default()).await;
    server.create_database("kept").await;
    server.client("kept").await.batch_execute("CREATE TABLE seen (stop text)").await.unwrap();
    for stop in ["fast", "immediate", "kill"] {
        let insert = format!("INSERT INTO seen VALUES ('{stop}')");
        server.client("kept").await.batch_execute(&insert).await.unwrap();
        match stop {
            "fast" => server.stop_fast().await,
            "immediate" => server.stop_immediate().await,
            _ => server.kill9().await,
        }
        server.start_again().await;
    }
    let row = server.client("kept").await.query_one("SELECT count(*) FROM seen", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 3);
}

#[tokio::test]
async fn rabbitmq_keeps_confirmed_messages_through_every_kind_of_stop() {
    let node = RabbitMq::start(RabbitMqOptions::default()).await;
    let url = node.create_vhost("kept/here").await;
    for stop in ["regular", "kill"] {
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare("kept".into(), durable, FieldTable::default()).await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let confirm = channel
            .basic_publish(
                "".into(),
                "kept".into(),
                BasicPublishOptions::default(),
                stop.as_bytes(),
                persistent,
            )
            .await
            .unwrap();
        assert!(confirm.await.unwrap().is_ack());
        match stop {
            "regular" => node.stop().await,
            _ => node.kill9().await,
        }
        node.start_again().await;
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let got = channel.basic_get("kept".into(), BasicGetOptions { no_ack: true }).await.unwrap();
        assert_eq!(got.unwrap().delivery.data, stop.as_bytes());
    }
}

#[tokio::test]
async fn tests_share_nodes_and_take_a_database_and_a_virtual_host_each() {
    let (postgres, rabbitmq) = tokio::join!(shared_postgres(), shared_rabbitmq());
    let name = unique("shared");
    postgres.create_database(&name).await;
    let row = postgres.client(&name).await.query_one("SELECT current_database()", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), name);
    let url = rabbitmq.create_vhost(&name).await;
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    assert!(connection.status().connected());
}

#[tokio::test]
async fn a_node_blocks_publishers_and_closes_connections_on_request() {
    let node = RabbitMq::start(RabbitMqOptions::default()).await;
    let connection = Connection::connect(&node.url("/"), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    node.block().await;
    // The node reports the alarm when a connection publishes.
    let options = BasicPublishOptions::default();
    channel
        .basic_publish("".into(), "nowhere".into(), options, b"", BasicProperties::default())
        .await
        .unwrap();
    within(Duration::from_secs(20), "the connection is blocked", || connection.status().blocked()).await;
    node.unblock().await;
    within(Duration::from_secs(20), "the connection is unblocked", || !connection.status().blocked()).await;
    node.close_all_connections().await;
    within(Duration::from_secs(20), "the connection is closed", || !connection.status().connected()).await;
}

#[tokio::test]
async fn nodes_speak_tls_when_they_are_given_a_certificate() {
    let authority = Authority::new("authority of the tests");
    let certificate = Some(authority.issue("localhost", &["localhost", "127.0.0.1"]));
    let options = PostgresOptions { certificate: certificate.clone(), ..Default::default() };
    let postgres = Postgres::start(options).await;
    let row = postgres.client("postgres").await.query_one("SHOW ssl", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "on");
    let rabbitmq = RabbitMq::start(RabbitMqOptions { certificate, ..Default::default() }).await;
    std::net::TcpStream::connect(("127.0.0.1", rabbitmq.tls_port())).unwrap();
}

/// Oracle, writers and consumer agree: a relay that only copies rows satisfies them, also when the server is killed under the
/// writers.
#[tokio::test]
async fn a_copying_loop_satisfies_the_oracle() {
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let url = postgres.create_database("copied").await;
    let name = unique("copied");
    let broker = shared_rabbitmq().await.create_vhost(&name).await;
    let oracle = Oracle::default();
    let workload = Workload { pause: Duration::from_millis(5), ..Workload::default() };
    workload.create_tables(&postgres.client("copied").await).await;
    let _consumer = Consumer::start(&broker, "Order.events", "copies", "#", &oracle).await;
    let kill = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        postgres.kill9().await;
        postgres.start_again().await;
    };
    tokio::join!(workload.run(&url, &oracle), kill);
    assert!(oracle.committed_count() > 0);

    let connection = Connection::connect(&broker, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    // The start order of transactions is not their commit order. The row lock makes `seq` follow commits within an aggregate.
    let select = "SELECT id::text, aggregateid, payload::text, seq FROM outbox ORDER BY seq";
    for row in postgres.client("copied").await.query(select, &[]).await.unwrap() {
        let mut headers = FieldTable::default();
        headers.insert("aggregate-id".into(), AMQPValue::LongString(row.get::<_, &str>(1).into()));
        let position = format!("{:016x}-00000000", row.get::<_, i64>(3));
        headers.insert("outbox-position".into(), AMQPValue::LongString(position.into()));
        let properties =
            BasicProperties::default().with_message_id(row.get::<_, &str>(0).into()).with_headers(headers);
        let body = row.get::<_, &str>(2).as_bytes();
        let options = BasicPublishOptions::default();
        channel.basic_publish("Order.events".into(), "any".into(), options, body, properties).await.unwrap();
    }
    oracle.settle(Duration::from_secs(20), Duration::from_millis(300)).await.assert_delivered(0);
}

const CHILD: &str = "OUTBOXD_TEST_CHILD_STARTS_NODES";

/// Runs in a process of its own, for the test below.
#[tokio::test]
#[ignore = "is a part of nothing_is_left_of_a_process_that_ends_in_whatever_way"]
async fn child_that_starts_nodes() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    tokio::join!(shared_postgres(), shared_rabbitmq());
    // Only root sees the daemon's working directory. No node answers the daemon, and it keeps running.
    let daemon = Daemon::start(
        "[rabbitmq]\nurl = \"amqp://guest@127.0.0.1:1/%2f\"\n[sources.orders]\npostgres.url = \"postgresql://me@127.0.0.1:1/db\"\n",
    );
    until_alive(&daemon).await;
    println!("\nthe daemon is {}", daemon.pid());
    println!("nodes run in {}", run::directory().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_is_left_of_a_process_that_ends_in_whatever_way() {
    for signal in ["INT", "KILL"] {
        // A shell's background job ignores SIGINT, and so does every child of it.
        let mut child = Command::new("env")
            .arg("--default-signal=INT")
            .arg(std::env::current_exe().unwrap())
            .args(["nodes::child_that_starts_nodes", "--exact", "--ignored", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = |what: &str| {
            lines
                .find_map(|line| Some(line.unwrap().strip_prefix(what)?.to_owned()))
                .expect("the child starts its nodes")
        };
        let daemon: u32 = said("the daemon is ").parse().unwrap();
        let folder = PathBuf::from(said("nodes run in "));
        assert!(process::is_running(daemon));
        let programs: Vec<String> = working_in(&folder).into_iter().map(|(_, program)| program).collect();
        for program in ["postgres", "beam.smp", "epmd"] {
            assert!(programs.iter().any(|name| name == program), "{program} is not in {programs:?}");
        }
        process::signal(&[child.id()], signal);
        child.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let left = (working_in(&folder), folder.exists(), process::is_running(daemon));
            if left == (Vec::new(), false, false) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "after SIG{signal} is left: processes, folder, daemon {left:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Id and name of the processes whose working directory lies in `folder`.
fn working_in(folder: &std::path::Path) -> Vec<(u32, String)> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .filter_map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, name.trim_end().to_owned()))
        })
        .collect()
}

async fn within(limit: Duration, what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
