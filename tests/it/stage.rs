//! A test's stage: a database with an outbox table, a virtual host with a consumer, writers, the daemon's configuration, the
//! oracle.

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

use crate::{inbox::Inbox, recovery::IN_FLIGHT_MAX};
use testkit::{
    Committed, Consumer, Daemon, Oracle, Postgres, Proxy, RabbitMq, Verdict, Workload, consumer, http,
    postgres::psql, shared_postgres, shared_rabbitmq, unique,
};

/// Time limit of every wait, long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Silence after which the oracle gives its verdict.
const QUIET: Duration = Duration::from_millis(700);

/// Short backoff: nodes of a test come back within seconds.
const SOON: &str = "delivery.backoff_max_ms = 1000\n";

pub(crate) struct Stage {
    /// Name of database, vhost and queue.
    pub(crate) name: String,
    pub(crate) postgres_url: String,
    pub(crate) amqp_url: String,
    pub(crate) workload: Workload,
    pub(crate) oracle: Oracle,
    /// Further lines of `[sources.orders]`, as dotted keys.
    pub(crate) source: String,
    /// Further lines of `[rabbitmq]`.
    pub(crate) rabbitmq: String,
    /// The daemon's role; `None`: the test's own superuser.
    role: Option<String>,
    consumer: Option<Consumer>,
}

/// Writers that write until [`stop`](Self::stop).
pub(crate) struct Writing {
    workload: Workload,
    task: JoinHandle<()>,
}

impl Writing {
    /// Stops the writers after their current transactions.
    pub(crate) async fn stop(self) {
        self.workload.stopped.store(true, Ordering::Relaxed);
        self.task.await.expect("the writers do not panic");
    }
}

/// Waits until `condition` holds. Fails the test after [`PATIENCE`].
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Stage {
    /// A stage on the nodes that all tests share.
    pub(crate) async fn shared(test: &str) -> Self {
        Self::on(test, shared_postgres().await, shared_rabbitmq().await).await
    }

    /// A shared stage whose rows come steadily, and whose leader always holds messages that wait for their turn.
    pub(crate) async fn flowing(test: &str) -> Self {
        let mut stage = Self::shared(test).await;
        stage.workload.pause = Duration::from_millis(5);
        stage.source = format!("delivery.in_flight_max = {IN_FLIGHT_MAX}");
        stage
    }

    /// Shortens the daemon's timeouts and backoff.
    pub(crate) fn make_impatient(&mut self) {
        self.source = "delivery.backoff_min_ms = 20\ndelivery.backoff_max_ms = 200\n\
                       delivery.status_interval_ms = 50\npostgres.wal_sender_timeout_ms = 1000"
            .into();
        self.rabbitmq = "connect_timeout_ms = 1500\nconfirm_timeout_ms = 1500\nheartbeat_s = 1".into();
    }

    /// A stage on the test's own nodes.
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

    /// Runs statements in the source's database.
    pub(crate) async fn sql(&self, statements: &str) {
        self.client()
            .await
            .batch_execute(statements)
            .await
            .unwrap_or_else(|e| panic!("{e:?} in {statements}"));
    }

    /// Binds a queue and returns it.
    pub(crate) async fn inbox(&self, exchanges: &[&str]) -> Inbox {
        Inbox::bind(&self.amqp_url, &self.name, exchanges).await
    }

    /// Binds the queue and consumes from it.
    pub(crate) async fn consume(&mut self) {
        self.consume_only("#").await;
    }

    /// Binds the queue for this routing key only, and consumes from it.
    pub(crate) async fn consume_only(&mut self, binding_key: &str) {
        let consumer =
            Consumer::start(&self.amqp_url, &self.exchange(), &self.name, binding_key, &self.oracle).await;
        self.consumer = Some(consumer);
    }

    /// Adds a binding of the queue for this routing key.
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

    /// Gives the daemon and its commands the role that `setup --print-sql` creates, and revokes the privileges of PUBLIC. psql
    /// runs the script twice.
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

    /// Name of the role that [`run_printed_sql`](Self::run_printed_sql) creates.
    pub(crate) fn printed_role(&self) -> String {
        format!("role_{}", self.name)
    }

    /// Runs the output of `setup --print-sql` with a superuser's psql. Returns the configuration for the printed role.
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

    /// A streaming daemon with a superuser, for tests that the printed script or its role does not fit.
    pub(crate) async fn relay(&self) -> Daemon {
        Self::relay_of(&self.config()).await
    }

    /// A streaming daemon. The daemon and its commands have the role that `setup --print-sql` creates.
    pub(crate) async fn relay_as_printed_role(&self) -> Daemon {
        Self::relay_of(&self.run_printed_sql().await).await
    }

    async fn relay_of(config: &str) -> Daemon {
        let mut daemon = Daemon::start(config);
        daemon.wait_ready(PATIENCE).await;
        daemon
    }

    /// Runs the writers to their end.
    pub(crate) async fn write(&self) {
        self.workload.run(&self.postgres_url, &self.oracle).await;
    }

    /// Starts writers that write until they are stopped.
    pub(crate) fn keep_writing(&self) -> Writing {
        let workload = Workload { transactions: usize::MAX, ..self.workload.clone() };
        let (writers, url, oracle) = (workload.clone(), self.postgres_url.clone(), self.oracle.clone());
        Writing { workload, task: tokio::spawn(async move { writers.run(&url, &oracle).await }) }
    }

    /// Commits one row.
    pub(crate) async fn write_row(&self, aggregate: &str, sequence: i64, event_type: &str) {
        self.write_transaction(&format!("SELECT '{aggregate}', '{event_type}', {sequence}::bigint")).await;
    }

    /// Commits a row that the oracle does not know, and returns its id.
    pub(crate) async fn write_unseen(&self, aggregate: &str, event_type: &str) -> String {
        let insert = format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
             VALUES ('Order', '{aggregate}', '{event_type}', '{{\"secret\": \"hidden\"}}') RETURNING id::text"
        );
        self.client().await.query_one(&insert, &[]).await.expect("a row written").get(0)
    }

    /// Restarts the daemon and checks that a parked or dropped message does not come again, and that aggregate `a` continues with
    /// its third.
    pub(crate) async fn is_settled_for_good(&self, daemon: &mut Daemon) {
        assert!(daemon.sigterm(PATIENCE).await.success());
        daemon.start_again();
        daemon.wait_ready(PATIENCE).await;
        self.write_row("a", 3, "OrderChanged").await;
        self.verdict().await.assert_delivered(0);
        assert_eq!(daemon.count("orders", "messages_returned_total").await, 0);
    }

    /// Commits one transaction of `rows` rows, of many aggregates.
    pub(crate) async fn write_large(&self, rows: usize) {
        let rows =
            format!("SELECT 'l' || n % 5000, 'OrderCreated', n FROM generate_series(1, {rows}::bigint) n");
        self.write_transaction(&rows).await;
    }

    /// Commits the rows that `rows` selects: aggregate, event type, number within the aggregate.
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

    /// Deletes a queue.
    pub(crate) async fn delete_queue(&self, queue: &str) {
        let connection =
            Connection::connect(&self.amqp_url, ConnectionProperties::default()).await.expect("connected");
        let channel = connection.create_channel().await.expect("a channel");
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
    }

    /// Number of messages in a queue.
    pub(crate) async fn messages_in(&self, queue: &str) -> u32 {
        let connection =
            Connection::connect(&self.amqp_url, ConnectionProperties::default()).await.expect("connected");
        let channel = connection.create_channel().await.expect("a channel");
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        declared.expect("the queue is there").message_count()
    }

    /// Waits until that many more different messages have arrived.
    pub(crate) async fn receive_more(&self, messages: usize) {
        let wanted = self.oracle.distinct_count() + messages;
        eventually("more messages arrive", async || self.oracle.distinct_count() >= wanted).await;
    }

    /// The daemon's configuration with proxies between it and its nodes.
    pub(crate) fn config_through(&self, postgres: &Proxy, broker: &Proxy) -> String {
        self.config_through_ports(postgres.port(), broker.port())
    }

    /// The daemon's configuration with these ports as its nodes.
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

    /// The oracle's verdict, after everything has arrived and nothing more comes.
    pub(crate) async fn verdict(&self) -> Verdict {
        let verdict = self.oracle.settle(PATIENCE, QUIET).await;
        println!("{verdict}");
        verdict
    }
}

/// Starts a daemon and waits until it answers, whatever the state of its sources.
pub(crate) async fn alive(config: &str) -> Daemon {
    let daemon = Daemon::start(config);
    until_alive(&daemon).await;
    daemon
}

/// Waits until the daemon answers.
pub(crate) async fn until_alive(daemon: &Daemon) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while http::get(daemon.port(), "/healthz").await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the daemon is not alive: {}", daemon.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A source in `/status`.
pub(crate) async fn source(daemon: &Daemon, name: &str) -> serde_json::Value {
    let status = daemon.status().await;
    let sources = status["sources"].as_array().expect("a list of sources");
    sources.iter().find(|source| source["name"] == name).expect("the source is shown").clone()
}

/// Waits until the source in `/status` satisfies `condition`, and returns it.
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

/// Output and exit status of a command.
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
