//! The monitor: watches one source's server on an SQL connection of its own. Reports metrics and status. Notices a shutdown, a
//! silence that the stream cannot notice while nobody reads it, and a publication that skips rows. Also copies the slot's position
//! into its record.
//!
//! The monitor lives as long as an attempt. Between attempts, [`look_on`] reports metrics and status.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

mod between_attempts;

pub(super) use between_attempts::{keep_in_use, look_on};

use super::database::{Database, Sql};
use crate::{
    admin::Reporter,
    message::Timestamp,
    position::Lsn,
    postgres::{SourceDatabase, sqlstate::CANNOT_CONNECT_NOW, statement::CatalogError},
    slot::{
        continuity::{Cause, Gap},
        facts::SlotFacts,
        publication::{PublishedBy, Publishing},
        record::Confirmed,
    },
};
use pg_replication::ConnectError;

const INTERVAL: Duration = Duration::from_secs(5);
/// Least number of looks in the time that a server may be silent.
const LOOKS_IN_SILENCE: u32 = 4;
/// Wait after a failure. Short, because the failure may be the server's shutdown.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// Shortest interval at which the slot's position is copied into its record while messages are confirmed. Each write makes WAL. If
/// PostgreSQL crashes and another process gets the slot, this much traffic is repeated.
const RECORD_INTERVAL: Duration = Duration::from_secs(1);
/// Wait after a failed write of the record.
const RECORD_AGAIN: Duration = Duration::from_secs(10);

/// The state of the publication at the last good look.
#[derive(Clone, Copy, Debug)]
pub(super) struct PublicationSeen {
    /// Publication entry that publishes the outbox table.
    pub(super) by: PublishedBy,
    /// Confirmed position at that look. Nothing before it is missing.
    pub(super) confirmed: Option<Lsn>,
    /// Commit time of the last message that was confirmed by then.
    pub(super) until: Option<Timestamp>,
}

/// The monitor's handle. The task ends when it is dropped.
pub(super) struct Monitor {
    task: JoinHandle<()>,
    slot: String,
    walsender: watch::Sender<Option<i32>>,
    published: watch::Sender<Option<PublicationSeen>>,
    gap: watch::Receiver<Option<Gap>>,
    server_ending: Arc<Notify>,
    confirmed: watch::Sender<Option<Confirmed>>,
    heard: watch::Receiver<Instant>,
    silence_max: Duration,
}

impl Monitor {
    /// Starts the task. `holder` is the holder's name in the slot's record. The server may be silent for `silence_max`.
    pub(super) fn start(
        database: &impl Database,
        holder: &str,
        report: &Reporter,
        silence_max: Duration,
    ) -> Self {
        let server_ending = Arc::new(Notify::new());
        let (sender, confirmed) = watch::channel(None);
        let (hears, heard) = watch::channel(Instant::now());
        let (names, walsender) = watch::channel(None);
        let (expects, published) = watch::channel(None);
        let (finds, gap) = watch::channel(None);
        let watched = Watched {
            database: database.clone(),
            holder: holder.to_owned(),
            report: report.clone(),
            server_ending: server_ending.clone(),
            confirmed,
            walsender,
            is_elsewhere: false,
            published,
            last_published: None,
            finds,
            recorded: None,
            record_next: Instant::now() + RECORD_INTERVAL,
            hears,
            silence_max,
        };
        let slot = database.options().slot.clone();
        let task = tokio::spawn(watched.run());
        Self {
            task,
            slot,
            walsender: names,
            published: expects,
            gap,
            server_ending,
            confirmed: sender,
            heard,
            silence_max,
        }
    }

    /// Name of the watched slot.
    pub(super) fn slot(&self) -> &str {
        &self.slot
    }

    /// Sets the server process that streams from the slot. Only a server with that process counts as heard: after a failover
    /// another server may answer at the same address, while the old one sends nothing.
    pub(super) fn streams_by(&self, pid: i32) {
        self.walsender.send_replace(Some(pid));
    }

    /// Sets the publication entry that must keep publishing the table.
    pub(super) fn expect(&self, published: PublicationSeen) {
        self.published.send_replace(Some(published));
    }

    /// Waits until the table is no longer published by that entry, or was not for a time. Cancel-safe.
    pub(super) async fn rows_skipped(&self) -> Gap {
        let mut gap = self.gap.clone();
        let found = gap.wait_for(Option::is_some).await.ok().and_then(|gap| gap.clone());
        match found {
            Some(gap) => gap,
            // The monitor is about to be dropped.
            None => std::future::pending().await,
        }
    }

    /// Sets the slot's confirmed position.
    pub(super) fn confirmed(&self, now: Confirmed) {
        self.confirmed.send_replace(Some(now));
    }

    /// Subscribes to the slot's confirmed position, as reported to the server.
    pub(super) fn follow(&self) -> watch::Receiver<Option<Confirmed>> {
        self.confirmed.subscribe()
    }

    /// Waits until the server shuts down. A fast shutdown waits until walsenders have all WAL confirmed, and tells them nothing
    /// (`WalSndDone`, walsender.c). With a stuck broker the status updates would keep the server waiting for ever. Cancel-safe.
    pub(super) async fn server_ending(&self) {
        self.server_ending.notified().await;
    }

    /// Waits until the server has not answered for `silence_max`. Returns the duration. Cancel-safe.
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
    walsender: watch::Receiver<Option<i32>>,
    /// Another process streams from the slot, or none.
    is_elsewhere: bool,
    /// The publication entry to expect.
    published: watch::Receiver<Option<PublicationSeen>>,
    /// The publication entry at the last look.
    last_published: Option<PublicationSeen>,
    finds: watch::Sender<Option<Gap>>,
    /// Position of the last write of the record.
    recorded: Option<Confirmed>,
    /// Earliest time of the next write.
    record_next: Instant,
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
            tracing::debug!(source, %error, "the slot could not be checked; trying again");
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }

    async fn watch(&mut self) -> Result<std::convert::Infallible, Unwatched> {
        let limit = self.silence_max;
        let sql = within(limit, self.database.connect_sql("outboxd monitor")).await?;
        // A slow server, or a lock, then ends in an error instead of in silence.
        within(limit, sql.limit_statements(limit / LOOKS_IN_SILENCE)).await?;
        self.heard();
        loop {
            let slot = within(limit, show_slot(&sql, self.database.options(), &self.report)).await?;
            let active_pid = slot.and_then(|slot| slot.active_pid);
            self.is_elsewhere = self.walsender.borrow().is_some_and(|pid| active_pid != Some(pid));
            self.heard();
            within(limit, self.look_at_publication(&sql)).await?;
            self.heard();
            within(limit, self.count_parked(&sql).map(Ok::<_, CatalogError>)).await?;
            self.heard();
            within(limit, self.look_for_parked_elsewhere(&sql).map(Ok::<_, CatalogError>)).await?;
            self.heard();
            within(limit, self.look_for_unpublished(&sql).map(Ok::<_, CatalogError>)).await?;
            self.heard();
            let next_look = Instant::now() + INTERVAL.min(limit / LOOKS_IN_SILENCE);
            // Priorities: (1) the connection's end; (2) the record, until the next look.
            tokio::select! {
                biased;
                () = closed(&sql) => {}
                recorded = self.record_until(next_look, &sql) => recorded?,
            }
        }
    }

    /// Writes the record when it is due. Looks at the publication before each write, so that the record never covers rows behind a
    /// gap. Writes nothing to a server that the slot is not streamed from: the server may be an older copy, and each write moves
    /// its WAL closer to where the two cannot be told apart.
    async fn record_until(&mut self, end: Instant, sql: &D::Sql) -> Result<(), Unwatched> {
        let limit = self.silence_max;
        loop {
            let confirmed = *self.confirmed.borrow();
            if let Some(now) = confirmed.filter(|now| !self.is_elsewhere && self.is_record_due(*now)) {
                within(limit, self.look_at_publication(sql)).await?;
                self.heard();
                if self.finds.borrow().is_none() {
                    within(limit, self.record(sql, now).map(Ok::<_, CatalogError>)).await?;
                    self.heard();
                }
            }
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            // Nothing signals a new confirm, so this loop polls. A look at the slot in between does not delay the write.
            let due = if self.record_next > now { self.record_next } else { now + RECORD_INTERVAL };
            tokio::time::sleep_until(end.min(due)).await;
        }
    }

    fn heard(&self) {
        if !self.is_elsewhere {
            self.hears.send_replace(Instant::now());
        }
    }

    async fn look_at_publication(&mut self, sql: &D::Sql) -> Result<(), CatalogError> {
        let Some(expected) = *self.published.borrow() else { return Ok(()) };
        let last = self.last_published.unwrap_or(expected);
        // Read before the look: everything up to here was published if the look finds no change.
        let confirmed = *self.confirmed.borrow();
        let cause = match sql.publishing(self.database.options()).await? {
            Publishing::By(by) if by.entry == expected.by.entry => {
                if by != last.by {
                    let source = self.report.name();
                    tracing::warn!(
                        source,
                        "the publication was altered: if it published no inserts for a time, the messages of that time are missing. \
                         `outboxd replay --source {source}` publishes them"
                    );
                }
                self.last_published = Some(match confirmed {
                    Some(Confirmed { flush, until, .. }) => {
                        PublicationSeen { by, confirmed: Some(flush), until: until.or(last.until) }
                    }
                    None => PublicationSeen { by, ..last },
                });
                return Ok(());
            }
            Publishing::By(_) => Cause::PublishedAnew,
            Publishing::Not(why) => Cause::Unpublished(why),
            // The table may only have been renamed, and is still published then.
            Publishing::NoTable => return Ok(()),
        };
        let PublicationSeen { confirmed, until, .. } = last;
        self.finds.send_replace(Some(Gap { cause, confirmed, until }));
        Ok(())
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

    /// Reports rows parked in another schema until somebody has moved them.
    async fn look_for_parked_elsewhere(&self, sql: &D::Sql) {
        if !self.report.has_parked_elsewhere() {
            return;
        }
        match sql.parked_elsewhere(self.database.options()).await {
            Ok(found) => self.report.parked_elsewhere(found.map(|problem| problem.to_string())),
            Err(error) => {
                let source = self.report.name();
                tracing::debug!(source, %error, "rows parked in another schema could not be read; trying again");
            }
        }
    }

    /// Reports tables that inherit from the outbox table. One may be created at any time.
    async fn look_for_unpublished(&self, sql: &D::Sql) {
        match sql.unpublished_tables(&self.database.options().table).await {
            Ok(found) => self.report.unpublished_tables(found.map(|found| found.explain())),
            Err(error) => {
                let source = self.report.name();
                tracing::debug!(source, %error, "tables below the outbox table could not be read; trying again");
            }
        }
    }

    fn is_record_due(&self, now: Confirmed) -> bool {
        is_news(now, self.recorded) && self.record_next <= Instant::now()
    }

    async fn record(&mut self, sql: &D::Sql, now: Confirmed) {
        let noted = sql.note_record(self.database.options(), &self.holder, now).await;
        if noted.is_err() && sql.is_closed() {
            // The next connection tries at once.
            return;
        }
        // The server may not have stored the latest status update yet.
        if let Ok(true) = noted {
            self.recorded = Some(now);
        }
        let pause = if noted.is_ok() { RECORD_INTERVAL } else { RECORD_AGAIN };
        self.record_next = Instant::now() + pause;
        if let Err(error) = noted {
            let source = self.report.name();
            tracing::warn!(
                source,
                %error,
                "the slot's position could not be written to outboxd_state; trying again in {} s. If PostgreSQL crashes before, another \
                 instance may publish messages again that were confirmed since the last write",
                RECORD_AGAIN.as_secs()
            );
        }
    }
}

/// Reads the slot's figures from the server. The stream knows little while nobody reads it.
async fn show_slot(
    sql: &impl Sql,
    database: &SourceDatabase,
    report: &Reporter,
) -> Result<Option<SlotFacts>, CatalogError> {
    let progress = sql.slot_progress(&database.slot).await?;
    // The slot has the right name and serves another purpose.
    let Some(progress) = progress.filter(SlotFacts::serves) else {
        report.no_slot();
        return Ok(None);
    };
    let retained = progress.restart_lsn.map(|_| progress.retained_bytes);
    report.lag(progress.lag_bytes);
    report.slot(retained, progress.wal_status.as_deref().unwrap_or("unknown"));
    Ok(Some(progress))
}

async fn within<T, E: Into<Unwatched>>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, Unwatched> {
    tokio::time::timeout(limit, answer).await.map_err(|_| Unwatched::NoAnswer(limit))?.map_err(Into::into)
}

/// Returns whether another row was confirmed. Only that justifies a write: each write moves the slot too, and an idle database
/// would never come to rest.
fn is_news(now: Confirmed, recorded: Option<Confirmed>) -> bool {
    now.position != recorded.and_then(|recorded| recorded.position)
}

/// Waits until the connection is closed, so that a shutdown is noticed at once.
async fn closed(sql: &impl Sql) {
    while !sql.is_closed() {
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

/// Reason why a look failed.
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
    /// SQLSTATE if the server sent one. A refusal is an answer, too.
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
    fn the_record_is_written_for_another_row_and_never_while_idle() {
        let at = |flush, row: Option<u64>| Confirmed {
            flush: Lsn(flush),
            position: row.map(|row| Position { commit_lsn: Lsn(row), index: 0 }),
            until: None,
        };
        for (now, recorded, due) in [
            (at(200, None), None, false),
            (at(200, Some(150)), None, true),
            (at(900, Some(150)), Some(at(200, Some(150))), false),
            (at(900, Some(800)), Some(at(200, Some(150))), true),
        ] {
            assert_eq!(is_news(now, recorded), due, "{now:?} {recorded:?}");
        }
    }
}
