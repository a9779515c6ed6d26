//! One source on real nodes: a database with an outbox table, a vhost with a consumer, writers, the daemon, the oracle.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use lapin::{
    Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use tokio::task::JoinHandle;

use crate::inbox::Inbox;
use testkit::{
    Committed, Consumer, Daemon, Oracle, Postgres, Proxy, RabbitMq, Verdict, Workload, consumer, http,
    postgres::psql, shared_postgres, shared_rabbitmq, unique,
};

/// Long enough for a busy machine; a test that needs it all has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// So long must nothing arrive any more before the oracle is asked.
const QUIET: Duration = Duration::from_millis(700);

/// What is away comes back within seconds, and need not be waited for longer than that.
const SOON: &str = "delivery.backoff_max_ms = 1000\n";

pub(crate) struct Stage {
    /// Name of database, vhost and queue.
    pub(crate) name: String,
    pub(crate) postgres_url: String,
    pub(crate) amqp_url: String,
    pub(crate) workload: Workload,
    pub(crate) oracle: Oracle,
    /// More of `[sources.orders]`, as dotted keys.
    pub(crate) source: String,
    /// More of `[rabbitmq]`.
    pub(crate) rabbitmq: String,
    /// The daemon's role; `None`: the superuser that the test itself is.
    role: Option<String>,
    consumer: Option<Consumer>,
}

/// Writers that write until they are told to stop.
pub(crate) struct Writing {
    workload: Workload,
    task: JoinHandle<()>,
}

impl Writing {
    /// Lets the writers finish what they are at.
    pub(crate) async fn stop(self) {
        self.workload.stopped.store(true, Ordering::Relaxed);
        self.task.await.expect("the writers do not panic");
    }
}

/// Waits until `condition` holds; after `PATIENCE` the test has failed.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Stage {
    /// On the nodes that all tests share.
    pub(crate) async fn shared(test: &str) -> Self {
        Self::on(test, shared_postgres().await, shared_rabbitmq().await).await
    }

    /// Has the daemon give up soon what does not answer, and try again at once.
    pub(crate) fn make_impatient(&mut self) {
        self.source = "delivery.backoff_min_ms = 20\ndelivery.backoff_max_ms = 200\n\
                       delivery.status_interval_ms = 50\npostgres.wal_sender_timeout_ms = 1000"
            .into();
        self.rabbitmq = "connect_timeout_ms = 1500\nconfirm_timeout_ms = 1500\nheartbeat_s = 1".into();
    }

    /// On nodes of the test's own.
    pub(crate) async fn on(test: &str, postgres: &Postgres, broker: &RabbitMq) -> Self {
        let name = unique(test);
        let stage = Self {
            postgres_url: postgres.create_database(&name).await,
            amqp_url: broker.create_vhost(&name).await,
            name,
            workload: Workload::default(),
            oracle: Oracle::default(),
            source: String::new(),
            rabbitmq: String::new(),
            role: None,
            consumer: None,
        };
        stage.workload.create_tables(&stage.client().await).await;
        stage
    }

    /// An SQL connection to the source's database.
    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&self.postgres_url, tokio_postgres::NoTls).await.expect("connected");
        tokio::spawn(connection);
        client
    }

    /// Statements in the source's database.
    pub(crate) async fn sql(&self, statements: &str) {
        self.client()
            .await
            .batch_execute(statements)
            .await
            .unwrap_or_else(|e| panic!("{e:?} in {statements}"));
    }

    /// Binds a queue and gives it to the test.
    pub(crate) async fn inbox(&self, exchanges: &[&str]) -> Inbox {
        Inbox::bind(&self.amqp_url, &self.name, exchanges).await
    }

    /// Binds the queue and consumes from it.
    pub(crate) async fn consume(&mut self) {
        self.consume_only("#").await;
    }

    /// Binds the queue for these routing keys only, and consumes from it.
    pub(crate) async fn consume_only(&mut self, binding_key: &str) {
        let consumer =
            Consumer::start(&self.amqp_url, &self.exchange(), &self.name, binding_key, &self.oracle).await;
        self.consumer = Some(consumer);
    }

    /// Binds the queue for these routing keys, too.
    pub(crate) async fn bind(&self, binding_key: &str) {
        consumer::bind(&self.amqp_url, &self.exchange(), &self.name, binding_key).await;
    }

    fn exchange(&self) -> String {
        format!("{}.events", self.workload.aggregate_type)
    }

    pub(crate) fn slot(&self) -> String {
        format!("outboxd_{}", self.name)
    }

    pub(crate) fn config(&self) -> String {
        let config = format!(
            "[rabbitmq]\nurl = \"{}\"\n{}\n[sources.orders]\npostgres.url = \"{}\"\n\
             postgres.slot = \"{}\"\n{}{}\n",
            self.amqp_url,
            self.rabbitmq,
            self.postgres_url,
            self.slot(),
            if self.source.contains("delivery.backoff_max_ms") { "" } else { SOON },
            self.source
        );
        match &self.role {
            Some(role) => config.replace("//postgres@", &format!("//{role}@")),
            None => config,
        }
    }

    /// From now on the daemon and its commands have the role that `setup --print-sql` makes for the source as it is now, and no
    /// right that everybody has. psql runs the script, twice, as it stands.
    pub(crate) async fn with_printed_role(&mut self) {
        self.sql(&format!(
            "REVOKE ALL ON DATABASE \"{}\" FROM public; REVOKE ALL ON SCHEMA public FROM public; \
             REVOKE ALL ON ALL TABLES IN SCHEMA public FROM public",
            self.name
        ))
        .await;
        self.role = Some(self.printed_role());
        for _ in 0..2 {
            self.run_printed_sql().await;
        }
    }

    /// Name of the role that [`run_printed_sql`](Self::run_printed_sql) makes.
    pub(crate) fn printed_role(&self) -> String {
        format!("role_{}", self.name)
    }

    /// Has a superuser's psql run what `setup --print-sql` prints for the printed role; gives the configuration.
    pub(crate) async fn run_printed_sql(&self) -> String {
        let config = self.config_as(&self.printed_role());
        let script = Said::from(Daemon::prepare(&config).command(&["setup", "--print-sql"]).await);
        assert_eq!((script.status, script.stderr.as_str()), (0, ""));
        let url = self.postgres_url.clone();
        tokio::task::spawn_blocking(move || psql(&url, &script.stdout)).await.expect("the script is run");
        config
    }

    /// The daemon's configuration with another role at PostgreSQL.
    pub(crate) fn config_as(&self, role: &str) -> String {
        self.config().replace("//postgres@", &format!("//{role}@"))
    }

    /// A daemon that is streaming, as a superuser: for what the script does not fit, or what a role without rights could not do.
    pub(crate) async fn relay(&self) -> Daemon {
        Self::relay_of(&self.config()).await
    }

    /// A daemon that is streaming. It and its commands have the role that `setup --print-sql` makes for the source as it is now.
    pub(crate) async fn relay_as_printed_role(&self) -> Daemon {
        Self::relay_of(&self.run_printed_sql().await).await
    }

    async fn relay_of(config: &str) -> Daemon {
        let mut daemon = Daemon::start(config);
        daemon.wait_ready(PATIENCE).await;
        daemon
    }

    /// Lets the writers write all their transactions.
    pub(crate) async fn write(&self) {
        self.workload.run(&self.postgres_url, &self.oracle).await;
    }

    /// Lets the writers write until they are told to stop.
    pub(crate) fn keep_writing(&self) -> Writing {
        let workload = Workload { transactions: usize::MAX, ..self.workload.clone() };
        let (writers, url, oracle) = (workload.clone(), self.postgres_url.clone(), self.oracle.clone());
        Writing { workload, task: tokio::spawn(async move { writers.run(&url, &oracle).await }) }
    }

    /// Commits one row.
    pub(crate) async fn write_row(&self, aggregate: &str, sequence: i64, event_type: &str) {
        self.write_transaction(&format!("SELECT '{aggregate}', '{event_type}', {sequence}::bigint")).await;
    }

    /// Commits a row that the oracle does not get to know, and gives its id.
    pub(crate) async fn write_unseen(&self, aggregate: &str, event_type: &str) -> String {
        let insert = format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
             VALUES ('Order', '{aggregate}', '{event_type}', '{{\"secret\": \"hidden\"}}') RETURNING id::text"
        );
        self.client().await.query_one(&insert, &[]).await.expect("a row written").get(0)
    }

    /// Restarts the daemon: a message that came back and was put aside, or given up, does not come again, and aggregate `a`
    /// goes on with its third.
    pub(crate) async fn is_settled_for_good(&self, daemon: &mut Daemon) {
        assert!(daemon.sigterm(PATIENCE).await.success());
        daemon.start_again();
        daemon.wait_ready(PATIENCE).await;
        self.write_row("a", 3, "OrderChanged").await;
        self.verdict().await.assert_delivered(0);
        assert_eq!(daemon.count("orders", "messages_returned_total").await, 0);
    }

    /// Commits one transaction of so many rows, of many aggregates.
    pub(crate) async fn write_large(&self, rows: usize) {
        let rows =
            format!("SELECT 'l' || n % 5000, 'OrderCreated', n FROM generate_series(1, {rows}::bigint) n");
        self.write_transaction(&rows).await;
    }

    /// Commits what `rows` selects: aggregate, event type, number within the aggregate.
    async fn write_transaction(&self, rows: &str) {
        static NUMBER: AtomicU64 = AtomicU64::new(1 << 60);
        let transaction = NUMBER.fetch_add(1, Ordering::Relaxed);
        let insert = format!(
            "INSERT INTO {} (aggregatetype, aggregateid, type, payload) \
             SELECT '{}', row.aggregate, row.event_type, jsonb_build_object('n', row.n) \
             FROM ({rows}) row (aggregate, event_type, n) \
             RETURNING id::text, aggregateid, payload::text, (payload ->> 'n')::bigint",
            self.workload.table, self.workload.aggregate_type
        );
        let written = self.client().await.query(&insert, &[]).await.expect("rows written");
        self.oracle.committed(written.iter().enumerate().map(|(index, row)| Committed {
            id: row.get(0),
            aggregate: row.get(1),
            body: row.get(2),
            sequence: row.get(3),
            transaction,
            index,
        }));
    }

    /// Deletes a queue, as somebody does by mistake.
    pub(crate) async fn delete_queue(&self, queue: &str) {
        let connection =
            Connection::connect(&self.amqp_url, ConnectionProperties::default()).await.expect("connected");
        let channel = connection.create_channel().await.expect("a channel");
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
    }

    /// How many messages wait in a queue.
    pub(crate) async fn messages_in(&self, queue: &str) -> u32 {
        let connection =
            Connection::connect(&self.amqp_url, ConnectionProperties::default()).await.expect("connected");
        let channel = connection.create_channel().await.expect("a channel");
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        declared.expect("the queue is there").message_count()
    }

    /// Waits until so many messages arrived that had not arrived before.
    pub(crate) async fn receive_more(&self, messages: usize) {
        let wanted = self.oracle.distinct_count() + messages;
        eventually("more messages arrive", async || self.oracle.distinct_count() >= wanted).await;
    }

    /// The daemon's configuration with proxies between it and its nodes.
    pub(crate) fn config_through(&self, postgres: &Proxy, broker: &Proxy) -> String {
        self.config_through_ports(postgres.port(), broker.port())
    }

    /// The daemon's configuration with something that listens on these ports between it and its nodes.
    pub(crate) fn config_through_ports(&self, postgres: u16, broker: u16) -> String {
        let port_of = |url: &str| {
            let authority = url.split("//").nth(1).and_then(|rest| rest.split('/').next());
            authority.and_then(|authority| authority.rsplit(':').next()).expect("a port").to_owned()
        };
        let through = |config: String, url: &str, port: u16| {
            config.replace(&format!(":{}/", port_of(url)), &format!(":{port}/"))
        };
        through(through(self.config(), &self.postgres_url, postgres), &self.amqp_url, broker)
    }

    /// The oracle's verdict, once everything has arrived and it is quiet.
    pub(crate) async fn verdict(&self) -> Verdict {
        let verdict = self.oracle.settle(PATIENCE, QUIET).await;
        println!("{verdict}");
        verdict
    }
}

/// A daemon that is alive, whatever its sources are.
pub(crate) async fn alive(config: &str) -> Daemon {
    let daemon = Daemon::start(config);
    until_alive(&daemon).await;
    daemon
}

/// Waits until the daemon answers.
pub(crate) async fn until_alive(daemon: &Daemon) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while http::get(daemon.admin_port(), "/healthz").await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the daemon is not alive: {}", daemon.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What `/status` says of a source.
pub(crate) async fn source(daemon: &Daemon, name: &str) -> serde_json::Value {
    let status = daemon.status().await;
    let sources = status["sources"].as_array().expect("a list of sources");
    sources.iter().find(|source| source["name"] == name).expect("the source is shown").clone()
}

/// Waits until what `/status` says of a source satisfies `condition`, and returns it.
pub(crate) async fn until(
    daemon: &Daemon,
    name: &str,
    condition: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let shown = source(daemon, name).await;
        if condition(&shown) {
            return shown;
        }
        assert!(std::time::Instant::now() < deadline, "not in time: {shown:#}\n{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the source is in that state, and returns the reason.
pub(crate) async fn until_state(daemon: &Daemon, name: &str, state: &str) -> String {
    let shown = until(daemon, name, |shown| shown["state"] == state).await;
    shown["reason"].as_str().expect("a reason").to_owned()
}

/// What a command said, and how it ended.
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<std::process::Output> for Said {
    fn from(output: std::process::Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let status = output.status.code().expect("not killed");
        Said { status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs a command to its end.
pub(crate) async fn say(daemon: &Daemon, arguments: &[&str]) -> Said {
    let said = Said::from(daemon.command(arguments).await);
    println!("$ outboxd {}\n{}{}[{}]", arguments.join(" "), said.stdout, said.stderr, said.status);
    said
}
