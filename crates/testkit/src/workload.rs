//! Writers: services that change aggregates and write to the standard outbox table in the same transaction.

use super::oracle::{Committed, Oracle};
use fastrand::Rng;
use outbox_schema::OUTBOX_STANDARD;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio_postgres::{Client, Error, NoTls};

/// Amount and pattern of writes.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Seed of all random choices, printed by [`Workload::run`].
    pub seed: u64,
    /// Concurrent connections.
    pub writers: usize,
    /// Number of transactions, including those rolled back.
    pub transactions: usize,
    /// Number of aggregates. Few mean many conflicts.
    pub aggregates: usize,
    /// Most rows of a transaction.
    pub rows_max: usize,
    /// Percentage of transactions that are rolled back.
    pub rollback_percent: u8,
    /// Length of a string in the payload.
    pub filler_bytes: usize,
    /// Pause of a writer between two transactions.
    pub pause: Duration,
    /// The outbox table. The table `<table>_aggregates` holds the aggregates.
    pub table: String,
    /// Value of `aggregatetype`.
    pub aggregate_type: String,
    /// Set to end the writers after their current transaction. Clones share it.
    pub stopped: Arc<AtomicBool>,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            seed: fastrand::u64(..),
            writers: 4,
            transactions: 200,
            aggregates: 10,
            rows_max: 4,
            rollback_percent: 10,
            filler_bytes: 0,
            pause: Duration::ZERO,
            table: "outbox".to_owned(),
            aggregate_type: "Order".to_owned(),
            stopped: Arc::default(),
        }
    }
}

/// Creates the outbox table that `outboxd schema` prints.
pub async fn create_outbox(client: &Client, table: &str) {
    let create = OUTBOX_STANDARD.replace("CREATE TABLE outbox (", &format!("CREATE TABLE {table} ("));
    client.batch_execute(&create).await.expect("table created");
}

impl Workload {
    /// Creates the tables.
    pub async fn create_tables(&self, client: &Client) {
        let table = &self.table;
        create_outbox(client, table).await;
        let create = format!(
            "CREATE TABLE {table}_aggregates (id text PRIMARY KEY, version bigint NOT NULL DEFAULT 0);
             INSERT INTO {table}_aggregates (id) SELECT 'a' || n FROM generate_series(1, {}) n",
            self.aggregates
        );
        client.batch_execute(&create).await.expect("tables created");
    }

    /// Writes all transactions and reports committed rows to the oracle. Survives restarts of the server: a broken
    /// connection is opened again, and a commit whose answer was lost is looked up in the table.
    pub async fn run(&self, url: &str, oracle: &Oracle) {
        println!("workload: {self:?}");
        let next = Arc::new(AtomicUsize::new(0));
        let writers = (0..self.writers).map(|number| {
            let writer = Writer {
                workload: self.clone(),
                url: url.to_owned(),
                oracle: oracle.clone(),
                // Each writer has its own sequence, so that scheduling does not change what it writes.
                random: Rng::with_seed(self.seed.wrapping_add(number as u64)),
            };
            tokio::spawn(writer.run(next.clone()))
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("a writer does not panic");
        }
    }
}

struct Writer {
    workload: Workload,
    url: String,
    oracle: Oracle,
    random: Rng,
}

impl Writer {
    async fn run(mut self, next: Arc<AtomicUsize>) {
        let mut client = self.connect().await;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.workload.transactions || self.workload.stopped.load(Ordering::Relaxed) {
                return;
            }
            // Chosen before the first attempt, so that a second one writes the same.
            let aggregates: Vec<String> = (0..self.random.usize(1..=self.workload.rows_max))
                .map(|_| format!("a{}", self.random.usize(1..=self.workload.aggregates)))
                .collect();
            let roll_back = self.random.u8(0..100) < self.workload.rollback_percent;
            loop {
                match self.transaction(&mut client, number as u64, &aggregates, roll_back).await {
                    Ok(rows) => {
                        self.oracle.committed(rows);
                        break;
                    }
                    Err((error, rows)) => {
                        println!("workload: transaction {number}: {error}; trying again");
                        client = self.connect().await;
                        if self.is_committed(&mut client, &rows).await {
                            self.oracle.committed(rows);
                            break;
                        }
                    }
                }
            }
            tokio::time::sleep(self.workload.pause).await;
        }
    }

    /// Returns the committed rows, none after a rollback. An error comes with rows that may be committed.
    async fn transaction(
        &mut self,
        client: &mut Client,
        number: u64,
        aggregates: &[String],
        roll_back: bool,
    ) -> Result<Vec<Committed>, (Error, Vec<Committed>)> {
        let early = |error| (error, Vec::new());
        let table = self.workload.table.clone();
        let transaction = client.transaction().await.map_err(early)?;
        // The row lock makes the commit order of an aggregate that of its versions. All locks come first and in one
        // order, which avoids deadlocks.
        for aggregate in aggregates.iter().collect::<BTreeSet<_>>() {
            let lock = format!("SELECT FROM {table}_aggregates WHERE id = $1 FOR UPDATE");
            transaction.execute(&lock, &[aggregate]).await.map_err(early)?;
        }
        let mut rows = Vec::new();
        for (index, aggregate) in aggregates.iter().enumerate() {
            let count = format!(
                "UPDATE {table}_aggregates SET version = version + 1 WHERE id = $1 RETURNING version"
            );
            let sequence: i64 = transaction.query_one(&count, &[aggregate]).await.map_err(early)?.get(0);
            let id = self.random_uuid();
            let filler = "x".repeat(self.workload.filler_bytes);
            let body = format!(
                r#"{{"n": {sequence}, "index": {index}, "filler": "{filler}", "transaction": {number}}}"#
            );
            let insert = format!(
                "INSERT INTO {table} (id, aggregatetype, aggregateid, type, payload) \
                 VALUES ($1::text::uuid, $2, $3, $4, $5::text::jsonb)"
            );
            let event_type = if sequence == 1 { "OrderCreated" } else { "OrderChanged" };
            let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                [&id, &self.workload.aggregate_type, aggregate, &event_type, &body];
            transaction.execute(&insert, &values).await.map_err(early)?;
            rows.push(Committed {
                id,
                aggregate: aggregate.clone(),
                sequence,
                transaction: number,
                index,
                body,
            });
        }
        if roll_back {
            transaction.rollback().await.map_err(early)?;
            return Ok(Vec::new());
        }
        match transaction.commit().await {
            Ok(()) => Ok(rows),
            Err(error) => Err((error, rows)),
        }
    }

    /// Tells whether a commit whose answer was lost took place. One row of a transaction decides for all.
    async fn is_committed(&self, client: &mut Client, rows: &[Committed]) -> bool {
        let Some(row) = rows.first() else { return false };
        let find = format!("SELECT FROM {} WHERE id = $1::text::uuid", self.workload.table);
        loop {
            match client.execute(&find, &[&row.id]).await {
                Ok(found) => return found == 1,
                Err(_) => *client = self.connect().await,
            }
        }
    }

    /// Retries until the server accepts the connection.
    async fn connect(&self) -> Client {
        loop {
            match tokio_postgres::connect(&self.url, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn random_uuid(&mut self) -> String {
        let n = self.random.u128(..);
        let (a, b, c, d, e) =
            (n >> 96, n >> 80 & 0xffff, n >> 64 & 0xfff, n >> 48 & 0x3fff, n & 0xffff_ffff_ffff);
        format!("{a:08x}-{b:04x}-4{c:03x}-{:04x}-{e:012x}", d | 0x8000)
    }
}
