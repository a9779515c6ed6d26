//! Writing services: concurrent transactions of one to some hundred rows, over few hot aggregates and many cold ones. Some
//! transactions roll back as a whole, some to a savepoint. Writers survive every fault of the server.
//!
//! A commit whose answer was lost is not looked up: the table keeps all rows and decides at the end. Writers take the numbers of
//! their rows from locked rows of the aggregates, so the numbers follow commit order and have no gap.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, NoTls, Transaction};

use crate::queues::{FRAGILE, SOLE, STEADY};

pub(crate) const WRITERS: u64 = 4;
pub(crate) const ROWS_MAX: usize = 300;
const AGGREGATES: usize = 200;
/// Aggregate of the rows that test whether messages arrive.
pub(crate) const PROBE: &str = "probe";

/// Percentages of transactions: large ones, rolled-back ones, those that roll back to a savepoint.
const LARGE: u8 = 3;
const ROLLED_BACK: u8 = 10;
const SAVEPOINT: u8 = 15;
/// Percentage of rows of hot aggregates.
const HOT: u8 = 40;
const FRAGILE_ROWS: u8 = 5;

/// Counts of all writers.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) committed: AtomicU64,
    pub(crate) rolled_back: AtomicU64,
    pub(crate) savepoints: AtomicU64,
    /// Commits whose answer was lost.
    pub(crate) unknown: AtomicU64,
    /// Transactions that failed before their commit.
    pub(crate) broken: AtomicU64,
}

/// Running writers.
pub(crate) struct Writers {
    tasks: Vec<JoinHandle<()>>,
    stopped: Arc<AtomicBool>,
    pub(crate) written: Arc<Written>,
}

impl Writers {
    pub(crate) fn start(url: &str, seed: u64) -> Self {
        let (stopped, written) = (Arc::<AtomicBool>::default(), Arc::<Written>::default());
        let tasks = (1..=WRITERS).map(|number| {
            // Each writer has its own random numbers, so the errors of one do not change the rows of another.
            let random = Rng::with_seed(seed.wrapping_add(number));
            let writer = Writer { url: url.to_owned(), random, written: written.clone() };
            tokio::spawn(writer.run(stopped.clone()))
        });
        Self { tasks: tasks.collect(), stopped, written }
    }

    /// Stops the writers after their current transactions.
    pub(crate) async fn stop(self) -> Arc<Written> {
        self.stopped.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a writer does not panic");
        }
        self.written
    }
}

/// Creates the tables.
pub(crate) async fn create_tables(client: &Client) {
    let statements = format!(
        "CREATE TABLE outbox (
             id uuid PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL,
             payload jsonb, headers jsonb, seq bigint GENERATED ALWAYS AS IDENTITY,
             created_at timestamptz NOT NULL DEFAULT clock_timestamp());
         CREATE TABLE aggregates (id text PRIMARY KEY, version bigint NOT NULL DEFAULT 0);
         INSERT INTO aggregates (id) SELECT 'a' || n FROM generate_series(1, {AGGREGATES}) n
             UNION VALUES ('{PROBE}'), ('{SOLE}')"
    );
    client.batch_execute(&statements).await.expect("tables created");
}

/// Commits one row of the probe's aggregate and returns its number.
pub(crate) async fn probe(url: &str) -> u64 {
    commit_one(url, PROBE, STEADY).await
}

/// Commits one row and returns its number. Retries until the server accepts it.
pub(crate) async fn commit_one(url: &str, aggregate: &str, event_type: &'static str) -> u64 {
    let mut random = Rng::new();
    loop {
        let mut client = connect(url).await;
        let row = Draft { aggregate: aggregate.to_owned(), event_type, body_bytes: 20 };
        let attempt = async {
            let transaction = client.transaction().await?;
            let mut numbers = lock(&transaction, std::slice::from_ref(&row)).await?;
            insert(&transaction, &[row], &mut numbers, &mut random).await?;
            update(&transaction, &numbers).await?;
            transaction.commit().await?;
            Ok::<_, Error>(numbers[aggregate] as u64)
        };
        if let Ok(number) = attempt.await {
            return number;
        }
    }
}

struct Writer {
    url: String,
    random: Rng,
    written: Arc<Written>,
}

/// A row without a number yet.
struct Draft {
    aggregate: String,
    event_type: &'static str,
    body_bytes: usize,
}

/// End of a transaction.
enum End {
    Committed,
    RolledBack,
    /// The commit was sent, and its answer was lost.
    Unknown,
}

impl Writer {
    async fn run(mut self, stopped: Arc<AtomicBool>) {
        let mut client = connect(&self.url).await;
        while !stopped.load(Ordering::Relaxed) {
            let end = self.transaction(&mut client).await;
            let counter = match &end {
                Ok(End::Committed) => &self.written.committed,
                Ok(End::RolledBack) => &self.written.rolled_back,
                Ok(End::Unknown) => &self.written.unknown,
                Err(_) => &self.written.broken,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            if !matches!(end, Ok(End::Committed | End::RolledBack)) {
                client = connect(&self.url).await;
            }
            tokio::time::sleep(Duration::from_millis(self.random.u64(0..500))).await;
        }
    }

    async fn transaction(&mut self, client: &mut Client) -> Result<End, Error> {
        let large = self.percent(LARGE);
        let drafts = self.drafts(if large { ROWS_MAX } else { 12 });
        let undone = if self.percent(SAVEPOINT) { self.drafts(5) } else { Vec::new() };
        let roll_back = self.percent(ROLLED_BACK);

        let mut transaction = client.transaction().await?;
        let mut numbers = lock(&transaction, &drafts).await?;
        if !undone.is_empty() {
            // Rows of the same aggregates with numbers that later rows will have: a published one would show.
            let undone: Vec<Draft> = undone
                .into_iter()
                .map(|draft| Draft { aggregate: drafts[0].aggregate.clone(), ..draft })
                .collect();
            let savepoint = transaction.savepoint("undone").await?;
            insert(&savepoint, &undone, &mut numbers.clone(), &mut self.random).await?;
            savepoint.rollback().await?;
            self.written.savepoints.fetch_add(1, Ordering::Relaxed);
        }
        insert(&transaction, &drafts, &mut numbers, &mut self.random).await?;
        update(&transaction, &numbers).await?;
        if roll_back {
            transaction.rollback().await?;
            return Ok(End::RolledBack);
        }
        Ok(transaction.commit().await.map_or(End::Unknown, |()| End::Committed))
    }

    fn drafts(&mut self, rows_max: usize) -> Vec<Draft> {
        (0..self.random.usize(1..=rows_max)).map(|_| self.draft()).collect()
    }

    fn draft(&mut self) -> Draft {
        let aggregates = if self.percent(HOT) { 5 } else { AGGREGATES };
        Draft {
            aggregate: format!("a{}", self.random.usize(1..=aggregates)),
            event_type: if self.percent(FRAGILE_ROWS) { FRAGILE } else { STEADY },
            body_bytes: match self.random.u8(0..100) {
                0..85 => self.random.usize(0..400),
                85..99 => self.random.usize(400..6_000),
                _ => self.random.usize(6_000..50_000),
            },
        }
    }

    fn percent(&mut self, percent: u8) -> bool {
        self.random.u8(0..100) < percent
    }
}

/// Locks the aggregates of these rows in a fixed order, which prevents deadlocks. Returns their versions.
async fn lock(transaction: &Transaction<'_>, drafts: &[Draft]) -> Result<BTreeMap<String, i64>, Error> {
    let names: Vec<&str> = drafts.iter().map(|draft| draft.aggregate.as_str()).collect();
    let sql = "SELECT id, version FROM aggregates WHERE id = ANY ($1) ORDER BY id FOR UPDATE";
    let rows = transaction.query(sql, &[&names]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Inserts the rows in order, each with its aggregate's next number.
async fn insert(
    transaction: &Transaction<'_>,
    drafts: &[Draft],
    numbers: &mut BTreeMap<String, i64>,
    random: &mut Rng,
) -> Result<(), Error> {
    let (mut ids, mut aggregates, mut types, mut sequences, mut fillers) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for draft in drafts {
        let number = numbers.get_mut(&draft.aggregate).expect("its aggregate is locked");
        *number += 1;
        ids.push(format!("{:032x}", random.u128(..)));
        aggregates.push(draft.aggregate.as_str());
        types.push(draft.event_type);
        sequences.push(*number);
        fillers.push("x".repeat(draft.body_bytes));
    }
    let sql = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, headers) \
               SELECT id::uuid, 'Order', aggregate, type, jsonb_build_object('filler', filler, 'id', id), \
                      jsonb_build_object('sequence', sequence) \
               FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) WITH ORDINALITY \
                    AS row (id, aggregate, type, sequence, filler, place) \
               ORDER BY place";
    transaction.execute(sql, &[&ids, &aggregates, &types, &sequences, &fillers]).await?;
    Ok(())
}

async fn update(transaction: &Transaction<'_>, numbers: &BTreeMap<String, i64>) -> Result<(), Error> {
    let (names, versions): (Vec<&str>, Vec<i64>) =
        numbers.iter().map(|(name, version)| (name.as_str(), *version)).unzip();
    let sql = "UPDATE aggregates SET version = row.version \
               FROM unnest($1::text[], $2::bigint[]) AS row (id, version) WHERE aggregates.id = row.id";
    transaction.execute(sql, &[&names, &versions]).await?;
    Ok(())
}

/// Retries until the server accepts the connection.
pub(crate) async fn connect(url: &str) -> Client {
    loop {
        match tokio_postgres::connect(url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
