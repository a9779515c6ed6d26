//! Removes the rows of one source whose messages are confirmed, beside the stream, on an SQL connection of its own.
//!
//! The rule: a row goes only after everything that commits before a position is confirmed, and the row was seen before the
//! server was asked for that position (`statements.rs` says why that is enough). Two must agree that it is confirmed. This
//! process, by its ledger: a slot that somebody dropped and made anew says nothing. And the slot, on the very connection
//! that the rows are removed on: after a failover the stream may still be thought alive while new connections lead elsewhere.
//!
//! And nothing is removed that may not have been published at all. Where the slot's record says that there may be such rows
//! nobody begins; and whoever sees that the table is not published as it was when the slot was taken stops for good.
//!
//! The pace: at once again while there is much to do, and never more than half of the time of one server process. Whatever
//! fails is a warning; the stream never waits for any of this.

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
/// Between two passes through the table.
const PAUSE: Duration = Duration::from_secs(2);
/// Times as long as a search took is the pause after it, when it led to nothing.
const PAUSE_FACTOR: u32 = 20;
/// After a failure, which somebody has to mend most often.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// A failure that lasts is said again so often; another one at once.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// Rows that were found longer ago are looked for again. Far less than the server takes to use a transaction number again,
/// which is part of a row's name.
const SEEN_MAX: Duration = Duration::from_secs(3600);
/// The slot takes in what it is told within milliseconds.
const SLOT_INTERVAL: Duration = Duration::from_millis(50);
/// A slot that has not taken it in by then is another one.
const SLOT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether every row that is before the confirmed position was published.
#[derive(Clone, Debug)]
pub(crate) enum Coverage {
    /// It was, by this.
    Complete(PublishedBy),
    /// It may not have been.
    Unproven {
        /// The cause.
        why: String,
        /// The next step.
        cure: String,
    },
}

/// Ends when dropped. What the server is at then, it finishes: that was allowed before.
pub(crate) struct Cleanup(JoinHandle<()>);

impl Cleanup {
    /// For as long as the slot is streamed from; `None` when rows are to stay. `confirmed` is what the server was told.
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
    /// What somebody was last told is wrong, and when.
    warned: Option<(String, Instant)>,
    /// Since when a search is under way.
    searching_since: Option<Instant>,
}

/// What became of the rows that a search found.
#[derive(Default)]
struct Removal {
    removed: usize,
    /// Why a batch stayed, which does not keep the next one from going.
    refused: Option<CleanupError>,
}

impl<D: Database> Cleaner<D> {
    async fn run(mut self) {
        loop {
            // Rows that were seen are forgotten with the connection: the next one may lead to another server.
            let Err(error) = self.clean().await;
            if let Uncleaned::Cleanup(error) = &error
                && error.is_final()
            {
                self.report.cleanup_off(Some(format!("{error}; restart outboxd when it is mended")));
                return;
            }
            self.warn(&error);
            // A search that was too long is as much of a burden as one that came to its end.
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

    /// Waits, as long as it takes, until everything that commits before `position` is confirmed.
    async fn wait_until_confirmed(&mut self, sql: &D::Sql, position: Lsn) -> Result<(), Uncleaned> {
        let passed = |now: &Option<Confirmed>| now.is_some_and(|now| now.flush >= position);
        if self.confirmed.wait_for(passed).await.is_err() {
            // The stream has ended, and this task is about to.
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
            tracing::debug!(source, "confirmed rows stay in the table: {why}");
            return;
        }
        tracing::warn!(source, "confirmed rows stay in the table: {why}; relaying goes on");
        self.warned = Some((why, Instant::now()));
    }
}

/// Why nothing is removed.
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
