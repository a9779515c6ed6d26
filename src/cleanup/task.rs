//! The clean-up task of one source. It runs beside the stream on an SQL connection of its own.
//!
//! **Rule.** A row is seen first, then the end of WAL is read, and the row is removed after everything before that end is confirmed
//! (`statements.rs` says why that is enough). Two sources must agree on the confirmed position. The ledger of this process counts,
//! because a slot may have been dropped and created again. The slot on the same connection counts, because after a failover new
//! connections may lead to another server than the stream.
//!
//! **Unpublished rows.** Clean-up does not begin if the slot's record says that rows may be unpublished. It stops until a restart if
//! the publication entry of the table changes.
//!
//! **Pace.** Clean-up goes on at once while there is much to do, and uses at most half of the time of one server process. A failure is
//! a warning. The stream never waits for clean-up.

use std::time::Duration;

use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::{CleanupError, Pass, SeenRow, Statements};
use crate::{
    admin::Reporter,
    message::ColumnNames,
    position::Lsn,
    postgres::statement::CatalogError,
    relay::database::{Database, Sql},
    slot::{publication::PublishedBy, record::Confirmed},
};
use pg_replication::ConnectError;

/// Rows of one transaction: it takes milliseconds.
const BATCH_ROWS: usize = 1000;
/// Pause between two passes through the table.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause after a search without a result, as a multiple of its time.
const PAUSE_FACTOR: u32 = 20;
/// Pause after a failure, which mostly needs a person.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// Interval at which a lasting failure is logged again. Another failure is logged at once.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// Age at which found rows are searched again. Far shorter than the time after which the server reuses a transaction number, which is
/// part of a row's identity.
const SEEN_MAX: Duration = Duration::from_secs(3600);
/// Interval between two looks at the slot, which advances within milliseconds after a status update.
const SLOT_INTERVAL: Duration = Duration::from_millis(50);
/// Time after which a slot that has not advanced must be another one.
const SLOT_TIMEOUT: Duration = Duration::from_secs(10);

/// Proof that every row before the confirmed position was published, or the lack of it.
#[derive(Clone, Debug)]
pub(crate) enum Coverage {
    /// Every row was published, by this entry.
    Complete(PublishedBy),
    /// Rows may be unpublished.
    Unproven {
        /// Cause.
        why: String,
        /// Next step.
        cure: String,
    },
}

/// The running task. It ends when dropped. A statement already sent still completes, and may.
pub(crate) struct Cleanup(JoinHandle<()>);

impl Cleanup {
    /// Starts the task for as long as the slot is streamed from; `None` if rows are to stay. `confirmed` is the position reported to
    /// the server.
    pub(crate) fn start<D: Database>(
        database: &D,
        columns: &ColumnNames,
        confirmed: watch::Receiver<Option<Confirmed>>,
        report: &Reporter,
        coverage: Coverage,
    ) -> Option<Self> {
        let cleanup = database.options().cleanup?;
        let published_by = match coverage {
            Coverage::Complete(published_by) => published_by,
            Coverage::Unproven { why, cure } => {
                report.cleanup_off(Some(format!("{why}; {cure}")));
                return None;
            }
        };
        report.cleanup_off(None);
        let cleaner = Cleaner {
            cleanup,
            published_by,
            database: database.clone(),
            columns: columns.clone(),
            confirmed,
            report: report.clone(),
            warned: None,
            searching_since: None,
        };
        Some(Self(tokio::spawn(cleaner.run())))
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Cleaner<D> {
    cleanup: crate::postgres::Cleanup,
    published_by: PublishedBy,
    database: D,
    columns: ColumnNames,
    confirmed: watch::Receiver<Option<Confirmed>>,
    report: Reporter,
    /// Last warning, and its time.
    warned: Option<(String, Instant)>,
    /// Start of the current search.
    searching_since: Option<Instant>,
}

/// Result of removing the rows of a search.
#[derive(Default)]
struct Removal {
    removed: usize,
    /// Failure of a batch. Later batches are tried all the same.
    refused: Option<CleanupError>,
}

impl<D: Database> Cleaner<D> {
    async fn run(mut self) {
        loop {
            // Seen rows are forgotten with the connection: the next one may lead to another server.
            let Err(error) = self.clean().await;
            if let Uncleaned::Cleanup(error) = &error
                && error.is_final()
            {
                self.report.cleanup_off(Some(format!("{error}; `outboxd check` prints the next step")));
                return;
            }
            self.warn(&error);
            // A search that timed out burdens the server like one that completed.
            let took = self.searching_since.take().map_or(Duration::ZERO, |since| since.elapsed());
            tokio::time::sleep(AFTER_FAILURE.max(took * PAUSE_FACTOR)).await;
        }
    }

    async fn clean(&mut self) -> Result<std::convert::Infallible, Uncleaned> {
        let sql = self.database.connect_sql(&format!("outboxd cleanup {}", self.report.name())).await?;
        let options = self.database.options();
        let statements = sql.prepare_cleanup(options, self.cleanup, &self.columns, self.published_by);
        let statements = statements.await?;
        let mut pass = Pass::default();
        loop {
            let begun = Instant::now();
            self.searching_since = Some(begun);
            let seen = sql.search_rows(self.database.options(), &statements, pass).await?;
            self.searching_since = None;
            let took = begun.elapsed();
            let mut removal = Removal::default();
            if !seen.rows.is_empty() {
                self.wait_until_confirmed(&sql, seen.committed_before).await?;
                if begun.elapsed() > SEEN_MAX {
                    continue;
                }
                removal = self.remove(&sql, &statements, &seen.rows).await?;
            }
            pass = seen.then.after_removing(removal.removed);
            let least = if pass == Pass::Begin { PAUSE } else { Duration::ZERO };
            if let Some(refused) = removal.refused {
                self.warn(&refused.into());
                tokio::time::sleep(AFTER_FAILURE).await;
            } else if pass == Pass::Begin || removal.removed == 0 {
                tokio::time::sleep(least.max(took * PAUSE_FACTOR)).await;
            }
        }
    }

    /// Waits without a limit until everything that commits before `position` is confirmed.
    async fn wait_until_confirmed(&mut self, sql: &D::Sql, position: Lsn) -> Result<(), Uncleaned> {
        let passed = |now: &Option<Confirmed>| now.is_some_and(|now| now.flush >= position);
        if self.confirmed.wait_for(passed).await.is_err() {
            // The stream has ended, and this task will be dropped.
            std::future::pending::<()>().await;
        }
        let since = Instant::now();
        let slot = &self.database.options().slot;
        while sql.slot_progress(slot).await?.and_then(|slot| slot.confirmed_flush) < Some(position) {
            if since.elapsed() > SLOT_TIMEOUT {
                return Err(CleanupError::OtherServer { slot: slot.clone() }.into());
            }
            tokio::time::sleep(SLOT_INTERVAL).await;
        }
        Ok(())
    }

    async fn remove(
        &self,
        sql: &D::Sql,
        statements: &Statements,
        rows: &[SeenRow],
    ) -> Result<Removal, Uncleaned> {
        let mut removal = Removal::default();
        for batch in rows.chunks(BATCH_ROWS) {
            let begun = Instant::now();
            match sql.remove_rows(statements, batch).await {
                Ok(removed) => {
                    self.report.deleted(removed);
                    removal.removed += usize::try_from(removed).unwrap_or(batch.len());
                }
                Err(error) if sql.is_closed() => return Err(error.into()),
                Err(error) => removal.refused = Some(error),
            }
            tokio::time::sleep(begun.elapsed()).await;
        }
        Ok(removal)
    }

    fn warn(&mut self, error: &Uncleaned) {
        let source = self.report.name();
        let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
        let why = diagnostics::chain(error) + &hint;
        if self.warned.as_ref().is_some_and(|(told, at)| *told == why && at.elapsed() < WARNING_INTERVAL) {
            tracing::debug!(source, "clean-up removes no rows: {why}");
            return;
        }
        tracing::warn!(source, "clean-up removes no rows: {why}; messages are still published");
        self.warned = Some((why, Instant::now()));
    }
}

/// Failure of clean-up.
#[derive(Debug, thiserror::Error)]
enum Uncleaned {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
}

impl Uncleaned {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Uncleaned::Cleanup(error) => error.hint(),
            Uncleaned::Connect(_) | Uncleaned::Catalog(_) => None,
        }
    }
}
