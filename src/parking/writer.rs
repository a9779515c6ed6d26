//! Puts rows aside for [`Delivery`](crate::relay::delivery::Delivery), without holding the loop up: rows gather while a batch is on
//! its way. How many is bounded by the ledger, where each has its place until it is parked.
//!
//! A batch that cannot be stored is tried again until it can, whatever the cause, and nothing else ends for it: the stream and
//! the broker's connection are well, and a new attempt would publish again what is confirmed behind the rows. That holds for a
//! connection that cannot be made, too: should the server be gone, the stream and the monitor find that out, and end the attempt.
//! Only one that leads to another server than the rows came from ends it right here.

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

/// Rows of one transaction, at most.
const BATCH_ROWS: usize = 100;

/// Bytes of one transaction; a row that is larger has one of its own.
const BATCH_BYTES: usize = 1 << 20;

/// How long a batch may be on its way before the source says so. It is not given up then: what takes the server too long it
/// ends itself ([`Sql::park`]), but for a commit, which waits for a synchronous standby; left behind, that would hold up the next.
const PATIENCE: Duration = Duration::from_secs(30);

/// A row on its way, and its tag in the ledger.
type Parking = (PublishTag, Arc<ParkedRow>);

/// Rows that are parked for good.
pub(crate) struct Batch {
    /// The rows, and their tags in the ledger.
    pub(crate) rows: Vec<Parking>,
    /// They stand in WAL before this place.
    pub(crate) before: Lsn,
}

/// Has a connection of its own for as long as there is something to put aside.
pub(crate) struct ParkingWriter<D: Database> {
    database: D,
    application_name: String,
    backoff: Backoff,
    waiting: VecDeque<Parking>,
    /// The rows that are to be stored first, all or none.
    batch: Vec<Parking>,
    work: Work<D::Sql>,
    stuck: Option<String>,
}

enum Work<C> {
    /// Nothing is on its way. The connection, if there is one still.
    Idle(Option<C>),
    /// The batch is on its way.
    Storing {
        stored: BoxFuture<'static, Result<(C, Lsn), Fault>>,
        /// When to say that it takes long, unless that is said.
        overdue: Option<Instant>,
    },
    /// The batch was not stored; again at that time.
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

    /// Admits a row; it is on its way when [`next`](Self::next) is polled.
    pub(crate) fn admit(&mut self, tag: PublishTag, row: Arc<ParkedRow>) {
        self.waiting.push_back((tag, row));
    }

    /// Why rows cannot be put aside now, and what to do; `None` while they can.
    pub(crate) fn stuck(&self) -> Option<&str> {
        self.stuck.as_deref()
    }

    /// The next rows that are parked for good; `None` when there is something new to say of why they are not, see
    /// [`stuck`](Self::stuck). The rows come from a server whose WAL reaches to `read_to` at least. Cancel-safe. Pends for ever
    /// while there is nothing to do.
    ///
    /// # Errors
    /// [`Fault::ServerChanged`] when that is not the server that answers now.
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

    /// Sends the next batch on its way; `false` when there is nothing to park.
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

    /// Stays the same for as long as the cause does.
    fn explain(&self, why: &str) -> String {
        let count = self.batch.len();
        let first =
            self.batch.first().map(|(_, row)| row.kept.row().position.to_string()).unwrap_or_default();
        format!(
            "cannot park {count} messages, the first at {first}: {why}. Nothing from there on is acknowledged to PostgreSQL \
             before they are parked; goes on by itself"
        )
    }
}

fn no_answer() -> String {
    format!(
        "no answer within {} s; see what PostgreSQL is waiting for (pg_stat_activity, application_name outboxd...): a \
         synchronous standby may be away",
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

/// How many of the first rows go together.
fn batch(sizes: impl Iterator<Item = usize>) -> usize {
    let together = sizes.take(BATCH_ROWS).scan(0, |bytes, size| {
        *bytes += size;
        Some(*bytes)
    });
    together.enumerate().take_while(|(index, bytes)| *index == 0 || *bytes <= BATCH_BYTES).count()
}

/// Gives the connection back, for the next batch.
///
/// A new one may lead to a server that was set back, or to another one. The next attempt tells that by the end of its WAL, which
/// rows that are written here would move on; so this looks first.
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
