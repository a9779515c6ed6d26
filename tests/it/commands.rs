//! The commands other than `run`, against real servers: findings, cures, changes, exit statuses.
//!
//! A cure that is a statement is run unchanged, and the next `check` must pass.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Client;

use crate::stage::{self, PATIENCE, Said, Stage};
use testkit::{Daemon, Postgres, PostgresOptions, ports::Port, shared_postgres, shared_rabbitmq, unique};

/// Prefix of every password. No output may hold it.
const SECRET: &str = "s3cret";

/// Runs a command to its end.
async fn say(daemon: &Daemon, arguments: &[&str]) -> Said {
    let said = stage::say(daemon, arguments).await;
    for printed in [&said.stdout, &said.stderr] {
        assert!(!printed.contains(SECRET), "a password is shown");
    }
    said
}

async fn check(config: &str) -> Said {
    say(&Daemon::prepare(config), &["check"]).await
}

/// Runs `check`, which must find nothing.
async fn passes(config: &str) {
    let said = check(config).await;
    assert_eq!((said.status, said.stderr.as_str()), (0, ""), "{}", said.stdout);
    assert!(!said.stdout.contains("FAILED"));
    assert!(said.stdout.lines().last().is_some_and(|line| line.contains(" checks; failed: 0, ")));
}

impl Said {
    /// The finding of a check, and the line below it.
    fn finding(&self, word: &str, name: &str) -> (&str, &str) {
        let mut lines = self.stdout.lines();
        let start = format!("  {word:<7}  {name}  ");
        let padded = |line: &str| {
            format!("{line} ").replace(&format!("{name} "), &format!("{name}  ")).starts_with(&start)
        };
        let line = lines.find(|line| padded(line)).unwrap_or_else(|| panic!("no {word} {name}"));
        (&line[11 + name.len()..], lines.next().unwrap_or_default())
    }

    fn passed(&self, name: &str, what: &str) {
        let (finding, _) = self.finding("OK", name);
        assert!(finding.contains(what), "{name}: {finding}");
    }

    /// The cure of a failed check.
    fn failed(&self, name: &str, what: &str) -> String {
        assert_eq!(self.status, 1);
        self.problem("FAILED", name, what)
    }

    fn warned(&self, name: &str, what: &str) -> String {
        self.problem("warning", name, what)
    }

    fn problem(&self, word: &str, name: &str, what: &str) -> String {
        let (finding, below) = self.finding(word, name);
        assert!(finding.contains(what), "{name}: {finding}");
        let cure =
            below.strip_prefix("           -> ").unwrap_or_else(|| panic!("{name} has no cure: {below}"));
        assert!(!cure.is_empty());
        cure.to_owned()
    }
}

async fn stage(test: &str) -> Stage {
    with_secret(Stage::shared(test).await)
}

/// Adds passwords to the URLs. The servers trust every local user; only the output matters.
fn with_secret(mut stage: Stage) -> Stage {
    stage.postgres_url = stage.postgres_url.replace("postgres@", &format!("postgres:{SECRET}@"));
    stage
}

fn subscription(queue: &str) -> String {
    format!("[[subscriptions]]\nqueue = \"{queue}\"\nexchange = \"Order.events\"\nqueue_type = \"classic\"\n")
}

async fn sql(client: &Client, statements: &str) {
    client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

#[tokio::test]
async fn setup_makes_everything_once_and_teardown_removes_it() {
    let mut stage = stage("setup").await;
    stage.source = subscription(&stage.name);
    let (slot, queue) = (stage.slot(), format!("queue '{}'", stage.name));
    let mut daemon = Daemon::prepare(&stage.config());

    let said = say(&daemon, &["check"]).await;
    assert_eq!(said.status, 0);
    said.passed("slot", "will be created");
    said.passed(&queue, "missing; `run` and `setup` will declare it");
    said.passed("replication connection", "timeline 1");

    for outcome in ["created", "was there"] {
        let said = say(&daemon, &["setup"]).await;
        assert_eq!(said.status, 0);
        said.passed("publication", &format!("outboxd_orders {outcome}"));
        said.passed("slot", &format!("{slot} {outcome}"));
        said.passed(&queue, outcome);
        said.passed("exchange 'Order.events' (topic)", outcome);
    }
    let said = say(&daemon, &["check"]).await;
    assert_eq!(said.status, 0);
    said.passed(&queue, "exists, as configured");

    let said = say(&daemon, &["status"]).await;
    let address = format!("127.0.0.1:{}", daemon.port());
    assert_eq!(said.status, 1);
    assert!(said.stdout.starts_with(&format!("daemon not running at {address}\n")));
    let row = said.stdout.lines().find(|line| line.starts_with("orders ")).expect("a row for the source");
    assert!(row.contains(&slot) && row.contains("reserved") && row.contains("nobody streams"), "{row}");
    assert!(said.stderr.contains(&address));
    let json: Value = serde_json::from_str(&say(&daemon, &["status", "--json"]).await.stdout).unwrap();
    let source = &json["sources"][0];
    assert_eq!((source["name"].as_str(), source["slot"].as_str()), (Some("orders"), Some(&*slot)));
    assert!(source["confirmed_lsn"].is_string() && source["slot_retained_bytes"].is_u64(), "{json}");
    assert!(source["slot_active_pid"].is_null());

    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    let said = say(&daemon, &["check"]).await;
    assert_eq!(said.status, 0, "a slot in use is no fault");
    said.passed("slot", "in use by application \"outboxd orders\"");
    let said = say(&daemon, &["status"]).await;
    assert_eq!(said.status, 0);
    assert!(said.stdout.contains("streaming"));
    let said = say(&daemon, &["teardown", "--source", "orders"]).await;
    assert_eq!((said.status, said.stdout.as_str()), (1, ""));
    let pid = stage.client().await;
    let pid: i32 = pid
        .query_one("SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1", &[&slot])
        .await
        .unwrap()
        .get(0);
    assert!(said.stderr.contains(&format!("process {pid}: stop the program")), "{}", said.stderr);

    assert!(daemon.sigterm(PATIENCE).await.success());
    for outcome in ["dropped", "was not there"] {
        let said = say(&daemon, &["teardown", "--source", "orders"]).await;
        let expected = format!(
            "slot {slot}: {outcome}\nrecord of slot {slot}: {outcome}\npublication outboxd_orders: {outcome}\n"
        );
        assert_eq!((said.status, said.stdout), (0, expected));
    }
    let said = say(&daemon, &["teardown", "--source", "order"]).await;
    assert_eq!(said.status, 2);
    assert!(said.stderr.contains("did you mean orders?"));
    let said = say(&daemon, &["status"]).await;
    assert!(said.stdout.contains("there is no such slot"));
}

#[tokio::test]
async fn teardown_drops_nothing_that_is_shared_or_foreign() {
    let stage = stage("foreign").await;
    let client = stage.client().await;
    let daemon = Daemon::prepare(&stage.config());
    sql(&client, "CREATE PUBLICATION outboxd_orders FOR ALL TABLES").await;
    let said = say(&daemon, &["teardown", "--source", "orders"]).await;
    assert_eq!(said.status, 0);
    assert!(said.stdout.contains("publication outboxd_orders: stays"));
    sql(&client, &format!("SELECT pg_create_physical_replication_slot('{}')", stage.slot())).await;
    let said = say(&daemon, &["teardown", "--source", "orders"]).await;
    assert_eq!((said.status, said.stdout.as_str()), (1, ""));
    assert!(said.stderr.contains("not outboxd's"));
    sql(&client, &format!("SELECT pg_drop_replication_slot('{}')", stage.slot())).await;
}

#[tokio::test]
async fn setup_leaves_the_slot_of_a_full_table_to_run() {
    let mut stage = stage("full").await;
    let client = stage.client().await;
    sql(
        &client,
        "INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('Order', '1', 'OrderCreated')",
    )
    .await;
    let setup = async |source: &str| {
        let config = stage.config() + source;
        say(&Daemon::prepare(&config), &["setup"]).await
    };
    let said = setup("").await;
    assert_eq!(said.status, 0);
    said.passed("slot", "left to `run`, which publishes the rows of \"public\".\"outbox\" first");
    let cure = setup("postgres.create = false").await.failed("slot", "has rows");
    assert!(cure.contains("backlog = \"skip\""));
    let said = setup("backlog = \"skip\"\npostgres.create = false").await;
    assert_eq!(said.status, 0, "postgres.create = false must not restrict setup");
    said.passed("slot", "created");
    stage.source = "backlog = \"skip\"\npostgres.create = false".to_owned();
    passes(&stage.config()).await;
    sql(&client, &format!("SELECT pg_drop_replication_slot('{}')", stage.slot())).await;
}

#[tokio::test]
async fn each_fault_of_a_database_comes_with_what_mends_it() {
    let mut stage = stage("faults").await;
    let client = stage.client().await;
    let slot = stage.slot();

    // The table.
    sql(&client, "DROP TABLE outbox").await;
    let daemon = Daemon::prepare(&stage.config());
    let said = check(&stage.config()).await;
    let cure = said.failed("table", "\"public\".\"outbox\" does not exist");
    assert!(cure.contains("`outboxd schema`"));
    let said = say(&daemon, &["setup"]).await;
    said.failed("table", "does not exist");
    assert!(!said.stdout.contains("OK ") && said.stderr.contains("nothing has been created"));
    sql(&client, &say(&daemon, &["schema"]).await.stdout).await;
    passes(&stage.config()).await;

    // Its columns.
    sql(
        &client,
        "ALTER TABLE outbox RENAME type TO event; ALTER TABLE outbox ALTER payload TYPE boolean USING true",
    )
    .await;
    let said = check(&stage.config()).await;
    let cure = said.failed("column event_type", "no column type; it has id");
    assert!(cure.contains("outbox.columns.event_type"));
    let cure = said.failed("column payload", "has type boolean, but needs one of json, jsonb");
    assert!(cure.contains("change its type"));
    sql(&client, "ALTER TABLE outbox ALTER payload TYPE jsonb USING NULL").await;
    stage.source = "outbox.columns.event_type = \"event\"".to_owned();
    passes(&stage.config()).await;
    let templates = "\nmessage.headers = { tenant = \"{column:tenant}\", kind = \"{column:evnt}\" }";
    let said = check(&(stage.config() + templates)).await;
    let cure = said.failed("templates", "column \"tenant\" (for {column:tenant})");
    said.failed("templates", "did you mean \"event\"?");
    assert!(cure.contains("templates in the section message"));

    // The publication.
    for (harm, what) in [
        (
            "CREATE TABLE other (id int); CREATE PUBLICATION outboxd_orders FOR TABLE other",
            "does not contain",
        ),
        ("ALTER PUBLICATION outboxd_orders SET (publish = 'update, delete')", "does not publish inserts"),
    ] {
        sql(&client, harm).await;
        let cure = check(&stage.config()).await.failed("publication", what);
        sql(&client, &cure).await;
        passes(&stage.config()).await;
    }
    let said = check(&stage.config()).await;
    said.warned("publication", "contains 1 other tables");

    // The slot.
    let elsewhere = shared_postgres().await.create_database(&unique("elsewhere")).await;
    let (other, connection) = tokio_postgres::connect(&elsewhere, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let logical = |plugin| format!("SELECT pg_create_logical_replication_slot('{slot}', '{plugin}')");
    let physical = format!("SELECT pg_create_physical_replication_slot('{slot}')");
    for (database, harm, what) in [
        (&client, logical("test_decoding"), "plugin test_decoding, not pgoutput"),
        (&other, logical("pgoutput"), "belongs to database \"elsewhere"),
        (&client, physical, "physical"),
    ] {
        sql(database, &harm).await;
        let cure = check(&stage.config()).await.failed("slot", what);
        assert!(cure.contains("set postgres.slot to another name"));
        let renamed = stage.config().replace(&slot, &format!("{slot}_2"));
        passes(&renamed).await;
        if what.starts_with("belongs") {
            // Another source sees an unused slot that holds WAL back.
            let cure = check(&renamed).await.warned("inactive slots", &format!("{slot} holds back"));
            assert!(cure.contains("pg_drop_replication_slot"));
        }
        sql(database, &format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    }
    let said = check(&(stage.config() + "\npostgres.create = false")).await;
    for (name, what) in
        [("slot", "does not exist"), ("records of slots", "does not exist, and postgres.create is false")]
    {
        sql(&client, &said.failed(name, what)).await;
    }
    passes(&(stage.config() + "\npostgres.create = false")).await;
    sql(&client, &format!("SELECT pg_drop_replication_slot('{slot}')")).await;

    // The role.
    let role = unique("role");
    sql(
        &client,
        &format!("CREATE ROLE \"{role}\" LOGIN; REVOKE CONNECT ON DATABASE \"{}\" FROM public", stage.name),
    )
    .await;
    let as_role = stage.config().replace("postgres:s3cret@", &format!("{role}:{SECRET}@"));
    let cure = check(&as_role).await.failed("connection", "permission denied for database");
    sql(&client, &cure).await;
    let said = check(&as_role).await;
    let replicate = said.failed("replication connection", "42501");
    assert_eq!(replicate, format!("ALTER ROLE \"{role}\" REPLICATION;"));
    let select = said.failed("table privileges", "may not read");
    let records = said.failed("records of slots", "may not read and write table outboxd_state");
    for cure in [replicate, select, records] {
        sql(&client, &cure).await;
    }
    passes(&as_role).await;
    sql(&client, &format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"")).await;
    assert!(check(&as_role).await.failed("connection", "28000").contains("--print-sql"));
    let nowhere = stage.config().replace(&format!("/{}\"", stage.name), "/nowhere\"");
    let cure = check(&nowhere).await.failed("connection", "database \"nowhere\" does not exist");
    assert!(cure.contains("CREATE DATABASE \"nowhere\";"));
}

#[tokio::test]
async fn each_fault_of_a_server_comes_with_what_mends_it() {
    let server = Postgres::start(PostgresOptions {
        settings: [("wal_level", "replica"), ("max_wal_senders", "0"), ("max_replication_slots", "1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec(),
        hba: vec![
            "host all locked 127.0.0.1/32 scram-sha-256".to_owned(),
            "host all banned 127.0.0.1/32 reject".to_owned(),
        ],
        ..Default::default()
    })
    .await;
    let stage = with_secret(Stage::on("server", &server, shared_rabbitmq().await).await);

    // Each setting has its own cure; all of them need a restart.
    let said = check(&stage.config()).await;
    let client = stage.client().await;
    for (name, what) in [
        ("wal_level", "wal_level is replica"),
        ("free slots", "1 of 1 replication slots is free"),
        ("free walsenders", "all 0 walsenders are in use"),
    ] {
        let cure = said.failed(name, what);
        let (statement, rest) = cure.split_once(';').expect("a statement");
        assert!(rest.contains("restart the server"), "{cure}");
        sql(&client, statement).await;
    }
    said.failed("replication connection", "53300");
    server.restart().await;
    passes(&stage.config()).await;

    // The login.
    let client = stage.client().await;
    sql(
        &client,
        &format!("CREATE ROLE locked LOGIN SUPERUSER PASSWORD '{SECRET}'; CREATE ROLE banned LOGIN"),
    )
    .await;
    let as_user = |user: &str| stage.config().replace(&format!("postgres:{SECRET}@"), user);
    let cure = check(&as_user("locked:s3cretive@")).await.failed("connection", "28P01");
    assert!(cure.contains("postgres.password"));
    let cure = check(&as_user("locked@")).await.failed("connection", "none is configured");
    assert!(cure.contains("postgres.password_file"));
    let cure = check(&as_user("banned@")).await.failed("connection", "28000");
    assert!(cure.contains("pg_hba.conf"));
    passes(&as_user(&format!("locked:{SECRET}@"))).await;
    let tls =
        stage.config().replace(&format!("/{}\"", stage.name), &format!("/{}?sslmode=require\"", stage.name));
    let cure = check(&tls).await.failed("connection", "does not offer TLS");
    assert!(cure.contains("sslmode"));

    // A slot whose WAL the server has removed.
    let slot = stage.slot();
    assert_eq!(say(&Daemon::prepare(&stage.config()), &["setup"]).await.status, 0);
    sql(&client, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await;
    sql(&client, "SELECT pg_reload_conf()").await;
    for _ in 0..4 {
        sql(&client, "CREATE TABLE bulk AS SELECT generate_series(1, 1000)").await;
        sql(&client, "DROP TABLE bulk").await;
        sql(&client, "SELECT pg_switch_wal()").await;
    }
    sql(&client, "CHECKPOINT").await;
    let daemon = Daemon::prepare(&stage.config());
    let cure = say(&daemon, &["check"]).await.failed("slot", "is lost: PostgreSQL has removed WAL");
    assert!(cure.contains("outboxd recover"), "{cure}");
    assert!(say(&daemon, &["status"]).await.stdout.contains("the slot is lost"));
    let said = say(&daemon, &["teardown", "--source", "orders"]).await;
    assert!(said.stdout.contains(&format!("slot {slot}: dropped")));
    passes(&stage.config()).await;

    // A slot that is gone.
    server.stop_fast().await;
    let said = check(&stage.config()).await;
    let at = format!("cannot connect to PostgreSQL at 127.0.0.1:{}", server.port());
    let cure = said.failed("connection", &at);
    assert!(cure.contains("runs there") && cure.contains("firewall"));
    said.passed("RabbitMQ", "connected");
    assert!(say(&daemon, &["status"]).await.stdout.contains(&at));
}

#[tokio::test]
async fn each_fault_of_the_broker_comes_with_what_mends_it() {
    let mut stage = stage("broker").await;
    let node = shared_rabbitmq().await;
    let user = unique("user");
    node.create_user(&user, SECRET).await;
    stage.source = subscription(&stage.name);
    let guest = stage.config();
    stage.amqp_url = stage.amqp_url.replace("guest:guest@", &format!("{user}:{SECRET}@"));
    let config = stage.config();

    let closed = Port::reserve();
    let elsewhere = config.replace(&format!(":{}/", node.port()), &format!(":{}/", closed.number()));
    let said = check(&elsewhere).await;
    assert!(said.failed("RabbitMQ", "cannot be reached").contains("check that RabbitMQ runs there"));
    said.passed("connection", "as role");
    let wrong = config.replace(&format!("{user}:{SECRET}@"), &format!("{user}:s3cretive@"));
    assert!(check(&wrong).await.failed("RabbitMQ", "refuses the login").contains("user and password"));
    assert!(check(&config).await.failed("RabbitMQ", "refuses the vhost").contains("set_permissions"));
    node.allow(&user, &stage.name, [".*"; 3]).await;
    passes(&config).await;

    let connection =
        lapin::Connection::connect(&node.url(&stage.name), lapin::ConnectionProperties::default())
            .await
            .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = lapin::options::ExchangeDeclareOptions { durable: true, ..Default::default() };
    let none = lapin::types::FieldTable::default;
    channel
        .exchange_declare("Order.events".into(), lapin::ExchangeKind::Fanout, durable, none())
        .await
        .unwrap();
    let durable = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare((&*stage.name).into(), durable, none()).await.unwrap();
    let said = check(&config).await;
    let queue = format!("queue '{}'", stage.name);
    let exchange = "exchange 'Order.events' (topic)";
    assert!(said.failed(exchange, "exists, but differently").contains("delete or rename"));
    assert!(said.failed(&queue, "exists, but differently").contains("drain and delete"));
    assert!(said.stdout.contains(&format!("  OK       queue '{}.dead'", stage.name)));
    // With rabbitmq.declare = false the objects need only exist.
    passes(
        &(config
            .replace("[rabbitmq]\n", "[rabbitmq]\ndeclare = false\n")
            .replace("queue_type", "dead_letter = false\nqueue_type")),
    )
    .await;
    assert_eq!(say(&Daemon::prepare(&config), &["setup"]).await.status, 1);
    channel.exchange_delete("Order.events".into(), Default::default()).await.unwrap();
    channel.queue_delete((&*stage.name).into(), Default::default()).await.unwrap();
    passes(&config).await;

    node.allow(&user, &stage.name, ["", ".*", ".*"]).await;
    assert_eq!(say(&Daemon::prepare(&guest), &["setup"]).await.status, 0);
    assert!(check(&config).await.failed(&queue, "is closed to this user").contains("configure"));
    let client = stage.client().await;
    sql(&client, &format!("SELECT pg_drop_replication_slot('{}')", stage.slot())).await;
    node.delete_user(&user).await;
}

#[tokio::test]
async fn the_printed_role_is_enough_for_check_and_run() {
    let mut stage = stage("script").await;
    let role = unique("outboxd");
    let superuser = stage.postgres_url.clone();
    stage.postgres_url = superuser.replace("postgres:", &format!("{role}:"));
    let queue = format!("{}.subscribed", stage.name);
    stage.source = subscription(&queue);
    let config = stage.config();

    // `--print-sql` connects to nothing.
    let script = say(&Daemon::prepare(&config), &["setup", "--print-sql"]).await;
    assert_eq!((script.status, script.stderr.as_str()), (0, ""));
    let unreachable = config.replace("@127.0.0.1:", "@127.0.0.2:");
    let offline = say(&Daemon::prepare(&unreachable), &["setup", "--print-sql"]).await;
    assert_eq!(offline.stdout.replace("127.0.0.2", "127.0.0.1"), script.stdout);
    for line in [
        format!("-- queue {queue}: durable, x-queue-type=classic"),
        "-- exchange Order.events: topic, durable".to_owned(),
        format!(
            "-- SELECT pg_catalog.pg_create_logical_replication_slot('{}', 'pgoutput') WHERE NOT",
            stage.slot()
        ),
    ] {
        assert!(script.stdout.contains(&line), "{line}");
    }

    let (client, connection) = tokio_postgres::connect(&superuser, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    sql(
        &client,
        "REVOKE ALL ON SCHEMA public FROM public; REVOKE ALL ON ALL TABLES IN SCHEMA public FROM public",
    )
    .await;
    sql(&client, &script.stdout).await;
    passes(&config).await;

    // The backlog needs SELECT, the stream needs REPLICATION.
    stage.postgres_url = superuser.clone();
    stage.workload.pause = Duration::from_millis(20);
    stage.consume().await;
    let mut daemon = Daemon::prepare(&config);
    let started = async {
        while stage.oracle.committed_count() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        daemon.start_again();
        daemon.wait_ready(PATIENCE).await;
    };
    tokio::join!(stage.write(), started);
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());
    passes(&config).await;
    // The role does not own the publication and cannot drop it. It can drop the slot.
    let said = say(&daemon, &["teardown", "--source", "orders"]).await;
    assert_eq!(said.status, 0);
    assert!(said.stdout.contains("dropped") && said.stdout.contains("stays, because its owner is postgres"));

    // The script with the slot in it.
    let skip = Daemon::prepare(&(config.replace("[[subs", "backlog = \"skip\"\n[[subs")));
    let script = say(&skip, &["setup", "--print-sql"]).await.stdout;
    let statement =
        script.lines().find(|line| line.starts_with("SELECT pg_catalog.pg_create")).expect("the slot");
    sql(&client, statement).await;
    let said = say(&skip, &["check"]).await;
    assert_eq!(said.status, 0);
    said.passed("slot", "bytes behind");
    sql(&client, &format!("SELECT pg_drop_replication_slot('{}')", stage.slot())).await;
    sql(&client, &format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"")).await;
}

#[tokio::test]
async fn offline_reads_the_file_and_the_files_it_names() {
    let config = |url: &str| {
        format!(
            "[rabbitmq]\nurl = \"amqp://me:{SECRET}@127.0.0.2/\u{25}2f\"\n[sources.orders]\npostgres.url = \"{url}\"\n"
        )
    };
    let url = format!("postgresql://me:{SECRET}@127.0.0.2/orders?sslmode=verify-full&sslrootcert=");
    let said = say(
        &Daemon::prepare(&config(
            &format!("{url}system").replace("&sslrootcert=system", "&sslrootcert=/nonexistent/ca.pem"),
        )),
        &["check", "--offline"],
    )
    .await;
    let cure = said.failed("TLS", "/nonexistent/ca.pem");
    assert!(cure.contains("postgres.url"));
    let plain = url.split('?').next().expect("an URL");
    let said = say(&Daemon::prepare(&config(plain)), &["check", "--offline"]).await;
    assert_eq!((said.status, said.stderr.as_str()), (0, ""));
    assert!(said.stdout.contains("6 checks; failed: 0, warnings: 0"));
}
