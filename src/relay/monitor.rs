//! Watches one source's server from the outside, on an SQL connection of its own: for metrics and status, and to notice a
//! shutdown, or a silence that the stream cannot tell while nobody reads it. On the same connection it writes down, now and then, how far the slot is confirmed.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

use super::database::{Database, Sql};
use crate::{
    admin::Reporter,
    postgres::{catalog::CatalogError, error::ConnectError, slot_record::Confirmed},
};

const INTERVAL: Duration = Duration::from_secs(5);
/// So many looks, at least, in the time that a server may be silent.
const LOOKS_IN_SILENCE: u32 = 4;
/// Sooner after a failure: it may be the server's shutdown.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// How often, at most, the slot's record is written while messages are confirmed: it makes WAL.
const RECORD_INTERVAL: Duration = Duration::from_secs(60);
/// SQLSTATE of "the database system is shutting down", and of "starting up".
const CANNOT_CONNECT_NOW: &str = "57P03";

/// Ends when dropped.
pub(super) struct Monitor {
    task: JoinHandle<()>,
    server_ending: Arc<Notify>,
    confirmed: watch::Sender<Option<Confirmed>>,
    heard: watch::Receiver<Instant>,
    silence_max: Duration,
}

impl Monitor {
    /// `holder` is the name that the slot's record is written under. The server may be silent for `silence_max`.
    pub(super) fn start(
        database: &impl Database,
        holder: &str,
        report: &Reporter,
        silence_max: Duration,
    ) -> Self {
        let server_ending = Arc::new(Notify::new());
        let (sender, confirmed) = watch::channel(None);
        let (hears, heard) = watch::channel(Instant::now());
        let watched = Watched {
            database: database.clone(),
            holder: holder.to_owned(),
            report: report.clone(),
            server_ending: server_ending.clone(),
            confirmed,
            recorded: None,
            recorded_at: Instant::now(),
            hears,
            silence_max,
        };
        Self { task: tokio::spawn(watched.run()), server_ending, confirmed: sender, heard, silence_max }
    }

    /// How far the slot is confirmed now.
    pub(super) fn confirmed(&self, now: Confirmed) {
        self.confirmed.send_replace(Some(now));
    }

    /// To follow how far the slot is confirmed: what the server was told.
    pub(super) fn follow(&self) -> watch::Receiver<Option<Confirmed>> {
        self.confirmed.subscribe()
    }

    /// Waits until the server shuts down. A fast shutdown waits for walsenders until all WAL is confirmed, and tells
    /// them nothing (`WalSndDone`, walsender.c): with a broker that takes nothing it would wait for ever, kept alive
    /// by our own status updates. Cancel-safe.
    pub(super) async fn server_ending(&self) {
        self.server_ending.notified().await;
    }
}

/// What the monitor hears of the server.
impl Monitor {
    /// Waits until the server has been silent for `silence_max`, although it was asked something all the time; says how
    /// long. Cancel-safe.
    pub(super) async fn server_silent(&self) -> Duration {
        loop {
            let heard = *self.heard.borrow();
            tokio::time::sleep_until(heard + self.silence_max).await;
            if *self.heard.borrow() == heard {
                return heard.elapsed();
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watched<D> {
    database: D,
    holder: String,
    report: Reporter,
    server_ending: Arc<Notify>,
    confirmed: watch::Receiver<Option<Confirmed>>,
    /// What the record was last written for, and when.
    recorded: Option<Confirmed>,
    recorded_at: Instant,
    hears: watch::Sender<Instant>,
    silence_max: Duration,
}

impl<D: Database> Watched<D> {
    async fn run(mut self) {
        loop {
            let Err(error) = self.watch().await;
            if error.sqlstate().is_some() {
                self.heard();
            }
            if matches!(&error, Unwatched::Connect(error) if error.sqlstate() == Some(CANNOT_CONNECT_NOW)) {
                self.server_ending.notify_one();
            }
            let source = self.report.name();
            tracing::debug!(source, %error, "the slot could not be looked at; trying again");
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }

    async fn watch(&mut self) -> Result<std::convert::Infallible, Unwatched> {
        let limit = self.silence_max;
        let sql = within(limit, self.database.connect_sql("outboxd monitor")).await?;
        // So that a server that is merely slow, or a lock that somebody holds, is answered with a refusal, and is no silence.
        within(limit, sql.limit_statements(limit / LOOKS_IN_SILENCE)).await?;
        self.heard();
        loop {
            let progress = within(limit, sql.slot_progress(&self.database.options().slot)).await?;
            self.heard();
            if let Some(progress) = progress {
                let retained = progress.restart_lsn.map(|_| progress.retained_bytes);
                // Asked of the server: what the stream has brought so far says little while nobody reads it.
                self.report.lag(progress.lag_bytes);
                self.report.slot(retained, progress.wal_status.as_deref().unwrap_or("unknown"));
            }
            within(limit, self.count_parked(&sql).map(Ok::<_, CatalogError>)).await?;
            self.heard();
            within(limit, self.record(&sql).map(Ok::<_, CatalogError>)).await?;
            self.heard();
            tokio::select! {
                biased;
                () = tokio::time::sleep(INTERVAL.min(limit / LOOKS_IN_SILENCE)) => {}
                () = closed(&sql) => {}
            }
        }
    }

    fn heard(&self) {
        self.hears.send_replace(Instant::now());
    }

    async fn count_parked(&self, sql: &D::Sql) {
        match sql.count_parked(self.database.options()).await {
            Ok(rows) => self.report.parked_rows(rows),
            Err(error) => {
                let source = self.report.name();
                tracing::debug!(source, %error, "the parked rows could not be counted; trying again");
            }
        }
    }

    async fn record(&mut self, sql: &D::Sql) {
        let Some(now) = *self.confirmed.borrow() else { return };
        if !is_due(now, self.recorded, self.recorded_at.elapsed()) {
            return;
        }
        match sql.note_record(self.database.options(), &self.holder, now).await {
            Ok(()) => self.recorded = Some(now),
            Err(error) => {
                let source = self.report.name();
                tracing::warn!(source, %error, "the slot's record could not be written; trying again in a minute");
            }
        }
        self.recorded_at = Instant::now();
    }
}

async fn within<T, E: Into<Unwatched>>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, Unwatched> {
    tokio::time::timeout(limit, answer).await.map_err(|_| Unwatched::NoAnswer(limit))?.map_err(Into::into)
}

/// Only another row's confirm makes the record due: writing it moves the slot's position too, and an idle database would
/// never come to rest.
fn is_due(now: Confirmed, recorded: Option<Confirmed>, since: Duration) -> bool {
    now.position != recorded.and_then(|recorded| recorded.position) && since >= RECORD_INTERVAL
}

/// Waits until the connection is closed, so that a shutdown is noticed at once.
async fn closed(sql: &impl Sql) {
    while !sql.is_closed() {
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

/// Why nothing can be seen.
#[derive(Debug, thiserror::Error)]
enum Unwatched {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("no answer within {} ms", .0.as_millis())]
    NoAnswer(Duration),
}

impl Unwatched {
    /// SQLSTATE, where the server sent one: also a refusal is an answer.
    fn sqlstate(&self) -> Option<&str> {
        match self {
            Unwatched::Connect(error) => error.sqlstate(),
            Unwatched::Catalog(error) => error.sqlstate(),
            Unwatched::NoAnswer(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Lsn, Position};

    #[test]
    fn the_record_is_due_after_a_minute_with_another_row_and_never_while_idle() {
        let at = |flush, row: Option<u64>| Confirmed {
            flush: Lsn(flush),
            position: row.map(|row| Position { commit_lsn: Lsn(row), index: 0 }),
            until: None,
        };
        let (soon, late) = (RECORD_INTERVAL / 2, RECORD_INTERVAL * 100);
        for (now, recorded, since, due) in [
            (at(200, None), None, late, false),
            (at(200, Some(150)), None, soon, false),
            (at(200, Some(150)), None, late, true),
            (at(900, Some(150)), Some(at(200, Some(150))), late, false),
            (at(900, Some(800)), Some(at(200, Some(150))), late, true),
            (at(900, Some(800)), Some(at(200, Some(150))), soon, false),
        ] {
            assert_eq!(is_due(now, recorded, since), due, "{now:?} {recorded:?} {since:?}");
        }
    }
}
