//! Parks rows for [`Delivery`](crate::relay::delivery::Delivery) without blocking its loop: rows gather while a batch is being
//! stored. The ledger bounds their number, because each keeps its place there until it is parked.
//!
//! A batch that cannot be stored is tried again until it can, whatever the cause. The attempt does not end for it: stream and broker
//! work, and a new attempt would repeat messages that are confirmed after those rows. The same goes for a connection that cannot be
//! opened: if the server is down, the stream or the monitor ends the attempt. Only a connection to another server than the rows'
//! ends the attempt here.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    ledger::PublishTag,
    message::ParkedRow,
    position::Lsn,
    relay::{
        Fault, RelayOptions,
        database::{Database, Sql},
        deadline::sleep_until,
    },
};
use process::{backoff::Backoff, clock::now};

/// Largest number of rows in one transaction.
const BATCH_ROWS: usize = 100;

/// Bytes of one transaction. A larger row has a transaction of its own.
const BATCH_BYTES: usize = 1 << 20;

/// Time after which a batch that is still being stored is reported. It is not given up: the server ends slow statements itself
/// ([`Sql::park`]), except a commit, which waits for a synchronous standby and would block the next try if left behind.
const PATIENCE: Duration = Duration::from_secs(30);

/// A row to be parked, and its tag in the ledger.
type Parking = (PublishTag, Arc<ParkedRow>);

/// Rows that are parked for good.
pub(crate) struct Batch {
    /// Rows with their tags in the ledger.
    pub(crate) rows: Vec<Parking>,
    /// Place in WAL after the parked rows.
    pub(crate) before: Lsn,
}

/// The writer of parked rows. Has a connection of its own while there are rows to park.
pub(crate) struct ParkingWriter<D: Database> {
    database: D,
    application_name: String,
    backoff: Backoff,
    waiting: VecDeque<Parking>,
    /// The rows of the current transaction.
    batch: Vec<Parking>,
    work: Work<D::Sql>,
    stuck: Option<String>,
}

enum Work<C> {
    /// No batch is being stored. Keeps the connection, if it is still open.
    Idle(Option<C>),
    /// The batch is being stored.
    Storing {
        stored: BoxFuture<'static, Result<(C, Lsn), Fault>>,
        /// Time at which the delay is reported, unless it has been.
        overdue: Option<Instant>,
    },
    /// The batch could not be stored. The next try is at that time.
    Resting { until: Instant },
}

impl<D: Database> ParkingWriter<D> {
    pub(crate) fn new(database: &D, application_name: String, options: &RelayOptions) -> Self {
        Self {
            database: database.clone(),
            application_name,
            backoff: Backoff::new(options.backoff_min, options.backoff_max),
            waiting: VecDeque::new(),
            batch: Vec::new(),
            work: Work::Idle(None),
            stuck: None,
        }
    }

    /// Admits a row. [`next`](Self::next) stores it when polled.
    pub(crate) fn admit(&mut self, tag: PublishTag, row: Arc<ParkedRow>) {
        self.waiting.push_back((tag, row));
    }

    /// The reason why rows cannot be parked now, with its cure; `None` while they can.
    pub(crate) fn stuck(&self) -> Option<&str> {
        self.stuck.as_deref()
    }

    /// Returns the next rows that are parked for good, or `None` if [`stuck`](Self::stuck) has changed. The rows come from a server
    /// whose WAL reaches `read_to` at least. Cancel-safe. Pends for ever while there is nothing to do.
    ///
    /// # Errors
    /// [`Fault::ServerChanged`] if another server answers now.
    pub(crate) async fn next(&mut self, read_to: Lsn) -> Result<Option<Batch>, Fault> {
        loop {
            match &mut self.work {
                Work::Idle(connection) => {
                    let connection = connection.take();
                    if !self.begin(connection, read_to) {
                        std::future::pending::<()>().await;
                    }
                }
                Work::Resting { until } => {
                    sleep_until(Some(*until)).await;
                    self.work = Work::Idle(None);
                }
                Work::Storing { stored, overdue } => {
                    // Priorities: (1) the server's answer; (2) the timer.
                    let stored = tokio::select! {
                        biased;
                        stored = stored => stored,
                        () = sleep_until(*overdue) => {
                            *overdue = None;
                            self.stuck = Some(self.explain(&no_answer()));
                            return Ok(None);
                        }
                    };
                    return self.finish(stored);
                }
            }
        }
    }

    /// Begins to store the next batch. Returns `false` if there is nothing to park.
    fn begin(&mut self, connection: Option<D::Sql>, read_to: Lsn) -> bool {
        if self.batch.is_empty() {
            let count = batch(self.waiting.iter().map(|(_, row)| row.kept.size()));
            self.batch = self.waiting.drain(..count).collect();
        }
        if self.batch.is_empty() {
            return false;
        }
        let rows = self.batch.iter().map(|(_, row)| Arc::clone(row)).collect();
        let (database, application_name) = (self.database.clone(), self.application_name.clone());
        let stored = store(database, connection, application_name, rows, read_to).boxed();
        self.work = Work::Storing { stored, overdue: Some(now() + PATIENCE) };
        true
    }

    fn finish(&mut self, stored: Result<(D::Sql, Lsn), Fault>) -> Result<Option<Batch>, Fault> {
        match stored {
            Ok((connection, before)) => {
                self.work = Work::Idle((!self.waiting.is_empty()).then_some(connection));
                self.stuck = None;
                self.backoff.reset();
                Ok(Some(Batch { rows: std::mem::take(&mut self.batch), before }))
            }
            Err(Fault::ServerChanged) => {
                self.work = Work::Idle(None);
                Err(Fault::ServerChanged)
            }
            Err(fault) => {
                self.work = Work::Resting { until: now() + self.backoff.next_wait() };
                self.stuck = Some(self.explain(&because(&fault)));
                Ok(None)
            }
        }
    }

    /// The text for `stuck`. It stays the same as long as the cause does.
    fn explain(&self, why: &str) -> String {
        let count = self.batch.len();
        let first =
            self.batch.first().map(|(_, row)| row.kept.row().position.to_string()).unwrap_or_default();
        format!(
            "cannot park {count} messages, the first at {first}: {why}. The slot does not advance beyond them, and holds WAL back, \
             until they are parked. outboxd goes on by itself when it can"
        )
    }
}

fn no_answer() -> String {
    format!(
        "no answer within {} s; see what PostgreSQL is waiting for (pg_stat_activity, application_name outboxd...): a \
         synchronous standby may be down",
        PATIENCE.as_secs()
    )
}

/// The cause and its cure.
fn because(fault: &Fault) -> String {
    let remedy = match fault {
        Fault::Catalog(error) => error.remedy_of_parking(),
        _ => None,
    };
    remedy.map_or_else(|| fault.explain(), |remedy| format!("{}; {}", fault.with_causes(), remedy.cure))
}

/// Number of the first rows that fit into one transaction.
fn batch(sizes: impl Iterator<Item = usize>) -> usize {
    let together = sizes.take(BATCH_ROWS).scan(0, |bytes, size| {
        *bytes += size;
        Some(*bytes)
    });
    together.enumerate().take_while(|(index, bytes)| *index == 0 || *bytes <= BATCH_BYTES).count()
}

/// Stores a batch and returns the connection for the next one.
///
/// A new connection may lead to another server, or to one that was set back. The next attempt recognises that by the end of WAL,
/// which a write would advance. So the end of WAL is checked before anything is written.
async fn store<D: Database>(
    database: D,
    connection: Option<D::Sql>,
    application_name: String,
    rows: Vec<Arc<ParkedRow>>,
    read_to: Lsn,
) -> Result<(D::Sql, Lsn), Fault> {
    let sql = match connection {
        Some(sql) => sql,
        None => {
            let sql = database.connect_sql(&application_name).await?;
            let slot = sql.slot_progress(&database.options().slot).await?;
            if slot.is_some_and(|slot| slot.current < read_to) {
                return Err(Fault::ServerChanged);
            }
            sql
        }
    };
    let before = sql.park(database.options(), &rows).await?;
    Ok((sql, before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_by_count_or_by_bytes_and_one_large_row_always_fits() {
        for (sizes, expected) in [
            (vec![], 0),
            (vec![1; 3], 3),
            (vec![1; 1_000], BATCH_ROWS),
            (vec![BATCH_BYTES * 10, 1, 1], 1),
            (vec![1, BATCH_BYTES, 1], 1),
            (vec![BATCH_BYTES / 2, BATCH_BYTES / 2, 1], 2),
        ] {
            assert_eq!(batch(sizes.into_iter()), expected);
        }
    }
}
