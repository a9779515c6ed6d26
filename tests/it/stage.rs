//! One source on real nodes: a database with an outbox table, a vhost with a consumer, writers, the daemon, the oracle.

use std::time::Duration;

use crate::inbox::Inbox;
use crate::support::{
    Consumer, Daemon, Oracle, Postgres, RabbitMq, Verdict, Workload, http, shared_postgres, shared_rabbitmq,
    unique,
};

/// Long enough for a busy machine; a test that needs it all has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// So long must nothing arrive any more before the oracle is asked.
const QUIET: Duration = Duration::from_millis(700);

pub(crate) struct Stage {
    /// Name of database, vhost and queue.
    pub(crate) name: String,
    pub(crate) postgres_url: String,
    pub(crate) amqp_url: String,
    pub(crate) workload: Workload,
    pub(crate) oracle: Oracle,
    /// More of `[sources.orders]`, as dotted keys.
    pub(crate) source: String,
    /// More on top level and `[rabbitmq]`.
    pub(crate) rabbitmq: String,
    consumer: Option<Consumer>,
}

impl Stage {
    /// On the nodes that all tests share.
    pub(crate) async fn shared(test: &str) -> Self {
        Self::on(test, shared_postgres().await, shared_rabbitmq().await).await
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
        let consumer = Consumer::start(&self.amqp_url, "Order.events", &self.name, "#", &self.oracle).await;
        self.consumer = Some(consumer);
    }

    pub(crate) fn slot(&self) -> String {
        format!("outboxd_{}", self.name)
    }

    pub(crate) fn config(&self) -> String {
        format!(
            "[rabbitmq]\nurl = \"{}\"\n{}\n[sources.orders]\npostgres.url = \"{}\"\n\
             postgres.slot = \"{}\"\n{}\n",
            self.amqp_url,
            self.rabbitmq,
            self.postgres_url,
            self.slot(),
            self.source
        )
    }

    /// A daemon that is streaming.
    pub(crate) async fn relay(&self) -> Daemon {
        let mut daemon = Daemon::start(&self.config());
        daemon.wait_ready(PATIENCE).await;
        daemon
    }

    /// Lets the writers write all their transactions.
    pub(crate) async fn write(&self) {
        self.workload.run(&self.postgres_url, &self.oracle).await;
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
    let deadline = std::time::Instant::now() + PATIENCE;
    while http::get(daemon.admin_port(), "/healthz").await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the daemon is not alive: {}", daemon.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon
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
