//! The streaming loop of one source: replication stream in, messages out, confirmed positions back.
//!
//! One task owns all of it by value. When the ledger is full, or the broker blocks, the loop stops reading the socket, and TCP
//! carries the backpressure to PostgreSQL. Status updates continue, so that `wal_sender_timeout` does not end the connection.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Fault, RelayOptions, Shutdown, StreamedTable,
    broker::Publisher,
    database::{Database, Replication, Stream},
    deadline::sleep_until,
    delivery::{CLOSE_TIMEOUT, Delivery, Drained, Left},
    monitor::Monitor,
};
use crate::{
    admin::{Reporter, Side, SourceState},
    ledger::{ConfirmedLsn, Progress},
    message::{Mapper, Mapping, OutboxRow, Timestamp},
    position::{Lsn, Position},
    slot::{
        continuity::{Cause, Gap},
        record::Confirmed,
    },
};
use pg_replication::{
    ReplicationEvent,
    pgoutput::{self, PgOutput, Relation, Tuple},
};
use process::{clock::now, heartbeat::TURN_MAX};

/// Prefix of a replication origin's name. A session under such an origin moves rows between partitions; the rows were published
/// before.
const MOVED: &str = "outboxd_moved";

/// The transaction whose rows are arriving.
struct Transaction {
    commit_lsn: Lsn,
    committed_at: Timestamp,
    /// Index of its next outbox row.
    next_index: u32,
    /// The moved rows, if the transaction has such an origin.
    moved: Option<Moved>,
}

/// Rows of a transaction under an origin [`MOVED`].
struct Moved {
    origin: String,
    /// Number of rows so far.
    rows: u64,
}

/// State of the intake of new transactions.
enum Intake {
    Open,
    /// Shutdown was requested. The current transaction is finished, so that a clean restart repeats nothing.
    Draining,
    /// A row cannot become a message. Earlier messages are still confirmed, then the source halts.
    Halting(Fault),
}

/// The replication stream of a database.
pub(super) type StreamOf<D> = <<D as Database>::Replication as Replication>::Stream;

pub(super) struct Pipeline<'a, D: Database, P> {
    stream: StreamOf<D>,
    delivery: Delivery<'a, D, P>,
    mapping: &'a Mapping,
    options: &'a RelayOptions,
    report: &'a Reporter,
    table: StreamedTable,
    mapper: Option<Arc<Mapper>>,
    transaction: Option<Transaction>,
    intake: Intake,
    /// Commit time of the row that the source halts for.
    stuck_since: Option<Timestamp>,
    /// End of the drain timeout, once shutdown was requested.
    deadline: Option<Instant>,
    /// Last position reported to PostgreSQL, and the time of the report.
    reported: Option<ConfirmedLsn>,
    reported_at: Instant,
    reply_requested: bool,
    listening_since: Option<Instant>,
    /// End of the server's WAL, as far as known.
    server_end: Lsn,
}

impl<'a, D: Database, P: Publisher> Pipeline<'a, D, P> {
    pub(super) fn new(
        stream: StreamOf<D>,
        delivery: Delivery<'a, D, P>,
        mapping: &'a Mapping,
        options: &'a RelayOptions,
        report: &'a Reporter,
        table: StreamedTable,
    ) -> Self {
        Self {
            stream,
            delivery,
            mapping,
            options,
            report,
            table,
            mapper: None,
            transaction: None,
            intake: Intake::Open,
            stuck_since: None,
            deadline: None,
            reported: None,
            reported_at: now(),
            reply_requested: false,
            listening_since: None,
            server_end: Lsn::ZERO,
        }
    }

    /// State that an end at this point leaves behind.
    pub(super) fn left(&self) -> Left {
        self.delivery.left()
    }

    /// Gap after everything confirmed. Up to version 17 the server refuses for ever to send what was written without a publication,
    /// even if there is one by now.
    pub(super) fn refused(&self) -> Gap {
        let Progress { confirmed, committed_at, .. } = self.delivery.progress();
        Gap { cause: Cause::PublishedAnew, confirmed: confirmed.map(ConfirmedLsn::lsn), until: committed_at }
    }

    /// Streams until `shutdown`, then drains. After a fault, only [`abandon`](Self::abandon) or [`close`](Self::close) may follow.
    ///
    /// # Errors
    ///
    /// [`Fault`] that ended the stream.
    pub(super) async fn run(&mut self, shutdown: &mut Shutdown, monitor: &Monitor) -> Result<Drained, Fault> {
        self.delivery.enter(SourceState::Streaming);
        loop {
            self.report.heartbeat().turn();
            if let Some(drained) = self.intake_ended()? {
                return Ok(drained);
            }
            self.report_status(monitor).await?;
            let may_read = self.may_read();
            self.server_fell_silent(may_read)?;
            let wake = self.next_wake();
            // Priorities: (1) shutdown; (2) the broker's answers, which make room; (3) PostgreSQL's rows; (4) the monitor; (5) the
            // timer. The timer only bounds the wait, and every turn looks at the clock anyway.
            tokio::select! {
                biased;
                deadline = shutdown.requested(), if self.deadline.is_none() => {
                    self.deadline = Some(deadline);
                    if matches!(self.intake, Intake::Open) {
                        self.intake = Intake::Draining;
                    }
                }
                settled = self.delivery.next() => settled?,
                event = self.stream.next(), if may_read => {
                    self.receive(event?)?;
                    self.receive_what_is_ready()?;
                }
                // Rows are missing before everything that arrives from now on.
                gap = monitor.rows_skipped() => return Err(Fault::gap(monitor.slot(), self.report.name(), gap)),
                () = monitor.server_ending() => return Err(Fault::ServerEnding),
                // A loop that does not read, because the broker takes nothing, cannot notice the silence itself. The connection
                // must end: another instance may have the slot by now and needs the fence.
                for_at_least = monitor.server_silent(), if !may_read => {
                    return Err(Fault::ServerSilent { for_at_least });
                }
                () = sleep_until(Some(wake)) => {}
            }
        }
    }

    /// Receives everything that one read of the socket brought, so that it leaves as one batch.
    fn receive_what_is_ready(&mut self) -> Result<(), Fault> {
        while self.may_read() {
            match self.stream.next_ready()? {
                Some(event) => self.receive(event)?,
                None => break,
            }
        }
        Ok(())
    }

    fn may_read(&self) -> bool {
        let wanted = match self.intake {
            Intake::Open => true,
            Intake::Draining => self.is_in_the_middle(),
            Intake::Halting(_) => false,
        };
        wanted && self.delivery.has_room()
    }

    /// Returns whether an end at this point would repeat settled rows: the current transaction or an earlier one is incomplete.
    fn is_in_the_middle(&self) -> bool {
        self.transaction.is_some() || self.delivery.is_mid_transaction()
    }

    /// Returns whether the loop is done: `Ok(Some)` after a drain, `Err` if the source halts.
    fn intake_ended(&mut self) -> Result<Option<Drained>, Fault> {
        let settled = match self.intake {
            Intake::Open => return Ok(None),
            Intake::Draining => !self.is_in_the_middle() && !self.delivery.can_settle(),
            // A halt also waits for messages that need help from outside, such as a missing queue, unless shutdown was requested.
            Intake::Halting(_) if self.deadline.is_none() => self.delivery.unsettled() == 0,
            Intake::Halting(_) => !self.delivery.can_settle(),
        };
        if !settled && self.deadline.is_none_or(|deadline| now() < deadline) {
            return Ok(None);
        }
        match std::mem::replace(&mut self.intake, Intake::Open) {
            Intake::Halting(fault) => {
                if let Some(committed_at) = self.stuck_since {
                    self.report.stuck_at(committed_at);
                }
                Err(fault)
            }
            _ => Ok(Some(self.delivery.drained(settled))),
        }
    }

    fn receive(&mut self, event: ReplicationEvent) -> Result<(), Fault> {
        match event {
            ReplicationEvent::WalData { wal_end, bytes, .. } => {
                self.server_end = self.server_end.max(wal_end);
                self.apply(pgoutput::decode(bytes)?)
            }
            ReplicationEvent::Keepalive { wal_end, reply_requested } => {
                self.server_end = self.server_end.max(wal_end);
                self.reply_requested |= reply_requested;
                // Between two transactions, everything that commits before `wal_end` has arrived. An idle slot therefore advances
                // without any publish.
                if self.transaction.is_none() {
                    self.delivery.advance_watermark(wal_end);
                }
                Ok(())
            }
        }
    }

    fn apply(&mut self, message: PgOutput) -> Result<(), Fault> {
        match message {
            PgOutput::Begin { final_lsn, commit_time, .. } => {
                self.transaction = Some(Transaction {
                    commit_lsn: final_lsn,
                    committed_at: commit_time.into(),
                    next_index: 0,
                    moved: None,
                });
            }
            PgOutput::Origin { name, .. } if name.starts_with(MOVED) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.moved = Some(Moved { origin: name, rows: 0 });
                }
            }
            PgOutput::Relation(relation) => self.describe_table(&relation),
            PgOutput::Insert { relation_oid, new } if self.table.is(relation_oid) => self.admit(new)?,
            PgOutput::Commit { end_lsn, .. } => {
                if let Some(Transaction { commit_lsn, moved: Some(moved), .. }) = self.transaction.take() {
                    self.tell_of_moved(&moved, commit_lsn);
                }
                self.delivery.advance_watermark(end_lsn);
            }
            PgOutput::Insert { .. }
            | PgOutput::Update { .. }
            | PgOutput::Delete { .. }
            | PgOutput::Truncate { .. } => {
                self.report.ignored(1);
            }
            PgOutput::LogicalMessage { .. } | PgOutput::Origin { .. } | PgOutput::Type { .. } => {}
        }
        Ok(())
    }

    /// Warns about moved rows. A session may write new rows under such an origin by mistake, and an origin may have a dropped one's
    /// number.
    fn tell_of_moved(&self, Moved { origin, rows }: &Moved, commit_lsn: Lsn) {
        if *rows > 0 {
            let source = self.report.name();
            tracing::warn!(
                source,
                rows,
                origin,
                %commit_lsn,
                "{rows} rows of one transaction are not published: replication origin \"{origin}\" marks them as moved between partitions. \
                 If they are new, `outboxd replay --source {source}` publishes them"
            );
        }
    }

    /// Applies the table's description: the first, and each one after a change of the table.
    fn describe_table(&mut self, relation: &Relation) {
        let Some(columns) = self.table.describe(relation) else { return };
        match self.mapping.resolve(&columns) {
            Ok(mapper) => self.mapper = Some(Arc::new(mapper)),
            Err(error) => {
                self.stuck_since = self.transaction.as_ref().map(|transaction| transaction.committed_at);
                self.halt(Fault::Mapping(error));
            }
        }
    }

    fn admit(&mut self, tuple: Tuple) -> Result<(), Fault> {
        let Some(transaction) = &mut self.transaction else {
            return Err(Fault::Protocol("a row outside of a transaction"));
        };
        let Some(mapper) = self.mapper.clone() else {
            // The columns do not fit the mapping, and the source is halting.
            return if matches!(self.intake, Intake::Halting(_)) {
                Ok(())
            } else {
                Err(Fault::Protocol("a row before the description of its table"))
            };
        };
        if let Some(moved) = &mut transaction.moved {
            moved.rows += 1;
            self.report.ignored(1);
            return Ok(());
        }
        let position = Position { commit_lsn: transaction.commit_lsn, index: transaction.next_index };
        transaction.next_index += 1;
        let committed_at = transaction.committed_at;
        if self.delivery.skips_settled(position, committed_at) {
            return Ok(());
        }
        let Some(values) = tuple.into_text() else {
            return Err(Fault::Protocol("an inserted value that is not text"));
        };
        let row = OutboxRow { position, committed_at, values };
        if let Err(invalid) = self.delivery.admit(&mapper, row, false) {
            self.stuck_since = Some(committed_at);
            self.halt(Fault::InvalidRow(invalid));
        }
        Ok(())
    }

    fn halt(&mut self, fault: Fault) {
        self.intake = Intake::Halting(fault);
    }

    /// Reports the confirmed position to PostgreSQL: on request, after progress at most every `status_interval`, and always well
    /// within `wal_sender_timeout`.
    async fn report_status(&mut self, monitor: &Monitor) -> Result<(), Fault> {
        let now = now();
        if !self.reply_requested && now < self.next_status() {
            return Ok(());
        }
        let Progress { confirmed, position, committed_at, .. } = self.delivery.progress();
        // Without progress, the server is asked for a sign of life. See `server_fell_silent`.
        self.stream.send_status(confirmed, !self.progressed()).await?;
        self.reported = confirmed;
        self.reported_at = now;
        self.reply_requested = false;
        if let Some(confirmed) = confirmed {
            // An idle slot advances, too.
            self.report.confirmed_position(confirmed.lsn(), position);
            monitor.confirmed(Confirmed { flush: confirmed.lsn(), position, until: committed_at });
            // While nobody reads the stream, only the monitor knows the server's WAL end.
            if self.may_read() {
                self.report.lag(self.server_end.bytes_since(confirmed.lsn()));
            }
        }
        Ok(())
    }

    fn progressed(&self) -> bool {
        self.delivery.progress().confirmed > self.reported
    }

    fn next_status(&self) -> Instant {
        let interval =
            if self.progressed() { self.options.status_interval } else { self.options.keepalive_interval };
        self.reported_at + interval
    }

    /// Fails if the server has been silent for too long. A cut connection gives no error, so only missing answers show it. Time
    /// counts from when reading last resumed, because a full ledger stops reading for as long as the broker takes.
    fn server_fell_silent(&mut self, listening: bool) -> Result<(), Fault> {
        if !listening {
            self.listening_since = None;
            return Ok(());
        }
        let since = *self.listening_since.get_or_insert_with(now);
        let silent = now().saturating_duration_since(self.stream.last_heard().into_std().max(since));
        if silent > self.options.server_silence_max {
            return Err(Fault::ServerSilent { for_at_least: silent });
        }
        Ok(())
    }

    fn next_wake(&self) -> Instant {
        let wake = self.next_status().min(now() + TURN_MAX);
        self.deadline.map_or(wake, |deadline| wake.min(deadline))
    }

    /// Ends after one side failed, so that the next attempt repeats as little as possible. The broker's outstanding answers are
    /// awaited, PostgreSQL gets the confirmed position, and the slot is released. Each step takes at most [`CLOSE_TIMEOUT`].
    pub(super) async fn abandon(mut self, failed: Side) -> Left {
        if failed == Side::Postgres {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.hear_out()).await;
        }
        let left = self.left();
        let Self { stream, delivery, .. } = self;
        // Releases the fence at once. An instance that has the slot already does not wait for the end of this one.
        drop(delivery);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, stream.finish(left.settled.progress.confirmed)).await;
        left
    }

    /// Applies the broker's answers and publishes nothing more, because another instance may have the slot. Reports progress to
    /// PostgreSQL while that connection works: not every fault is the stream's.
    async fn hear_out(&mut self) {
        let mut listens = true;
        while self.delivery.awaits_answers() {
            let next_status = listens.then(|| self.next_status());
            // Priorities: (1) the broker's answers; (2) the next status update.
            tokio::select! {
                biased;
                heard = self.delivery.idle() => if heard.is_err() { return },
                () = sleep_until(next_status) => {
                    let confirmed = self.delivery.progress().confirmed;
                    listens = self.stream.send_status(confirmed, false).await.is_ok();
                    self.reported = confirmed;
                    self.reported_at = now();
                }
            }
        }
    }

    /// Ends both connections in good order. After `Ok`, PostgreSQL has stored the confirmed position.
    ///
    /// # Errors
    ///
    /// [`Fault`] of the replication connection.
    pub(super) async fn close(self) -> Result<(), Fault> {
        let confirmed = self.delivery.progress().confirmed;
        let finish = tokio::time::timeout(FINISH_TIMEOUT, self.stream.finish(confirmed));
        let finished =
            finish.await.map_err(|_| Fault::Protocol("no end of the copy stream from PostgreSQL"))?;
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.delivery.close()).await;
        Ok(finished?)
    }
}

/// Longest wait for PostgreSQL to end the copy stream. The server may be in the middle of a large transaction.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);
