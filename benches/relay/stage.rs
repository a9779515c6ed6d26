//! Stage of all measurements: private nodes, the database with its outbox table, and the virtual host.

use crate::{queue::Queue, usage};
use std::time::{Duration, Instant};
use testkit::{Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, create_outbox};
use tokio_postgres::Client;

/// Name of the database.
pub const DATABASE: &str = "bench";
/// The outbox table.
pub const OUTBOX: &str = "outbox";
/// Name of the virtual host.
pub const VHOST: &str = "bench";

/// Nodes on which every relay is measured.
pub struct Stage {
    /// The server with the outbox.
    pub postgres: Postgres,
    /// The broker.
    pub broker: RabbitMq,
    /// A connection to the database.
    pub client: Client,
}

/// CPU time of the nodes, user and system.
#[derive(Clone, Copy, Debug)]
pub struct NodesCpu {
    /// All processes of PostgreSQL.
    pub server: Duration,
    /// RabbitMQ.
    pub broker: Duration,
}

impl NodesCpu {
    /// Returns microseconds for each of `count` since `earlier`, of server and broker.
    pub fn us_each(&self, earlier: &Self, count: u32) -> [f64; 2] {
        [self.server.saturating_sub(earlier.server), self.broker.saturating_sub(earlier.broker)]
            .map(|time| time.as_secs_f64() * 1e6 / f64::from(count))
    }
}

impl Stage {
    /// Starts the nodes and creates database, table and virtual host.
    pub async fn open() -> Self {
        let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let server = PostgresOptions {
            // Avoids a checkpoint in only some of the drains.
            settings: vec![setting("shared_buffers", "256MB"), setting("max_wal_size", "8GB")],
            ..Default::default()
        };
        // Allows a million messages in a queue without an alarm.
        let settings = vec!["vm_memory_high_watermark.absolute = 6GB".to_owned()];
        let broker = RabbitMqOptions { settings, ..Default::default() };
        let (postgres, broker) = tokio::join!(Postgres::start(server), RabbitMq::start(broker));
        postgres.create_database(DATABASE).await;
        broker.create_vhost(VHOST).await;
        let client = postgres.client(DATABASE).await;
        create_outbox(&client, OUTBOX).await;
        let stage = Self { postgres, broker, client };
        // A contender may publish while it is set up.
        stage.fresh_queue().await;
        stage
    }

    /// Returns the database's connection string.
    pub fn postgres_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    /// Returns the virtual host's URL.
    pub fn amqp_url(&self) -> String {
        self.broker.url(VHOST)
    }

    /// Returns the CPU time of server and broker so far.
    pub async fn cpu(&self) -> NodesCpu {
        let (server, broker) = (self.postgres.pid().await, self.broker.pid().await);
        NodesCpu {
            server: usage::cpu_of_family(server).expect("the server runs"),
            broker: usage::cpu(broker).expect("the broker runs"),
        }
    }

    /// Creates an empty quorum queue, bound for everything.
    pub async fn fresh_queue(&self) -> Queue {
        Queue::fresh(&self.amqp_url(), "quorum").await
    }

    /// Writes one row with this number.
    pub async fn write_one(&self, table: &str, n: u32) {
        let insert = format!(
            "INSERT INTO {table} (aggregatetype, aggregateid, type, payload) \
             VALUES ('Order', '1', 'OrderCreated', '{{\"n\": {n}, \"a\": \"1\"}}')"
        );
        self.client.batch_execute(&insert).await.expect("row written");
    }

    /// Copies the outbox into a contender's own table, which only its slot decodes.
    pub async fn fill(&self, table: &str, rows: u32) {
        if table == OUTBOX {
            return;
        }
        let copy = format!(
            "TRUNCATE {table};
             INSERT INTO {table} (id, aggregatetype, aggregateid, type, payload)
             SELECT id, aggregatetype, aggregateid, type, payload FROM {OUTBOX} ORDER BY seq LIMIT {rows};
             ANALYZE {table}"
        );
        self.client.batch_execute(&copy).await.expect("rows copied");
    }

    /// Waits until the server has released the slots of contenders that ended.
    pub async fn slots_are_free(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
        while self.client.query_one(active, &[]).await.expect("slots").get::<_, i64>(0) > 0 {
            assert!(Instant::now() < deadline, "a slot is still in use");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Empties a table, and makes the server write its dirty pages before the next measurement.
    pub async fn clear(&self, table: &str) {
        for statement in [format!("TRUNCATE {table}"), "CHECKPOINT".to_owned()] {
            self.client.batch_execute(&statement).await.expect("table emptied");
        }
    }
}
