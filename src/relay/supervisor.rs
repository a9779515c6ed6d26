//! The life of one source: connect, acquire the slot or stand by, run, back off, drain.
//!
//! Recovery is crash-only. A lost link, a timeout or a closed channel ends the whole attempt; what is kept is
//! [`Known`], and the next attempt is like the first. There is one way back, and it is exercised all the time.

use std::{pin::pin, time::Duration};

use super::{
    BacklogPolicy, Fault, RelayOptions, Shutdown, StreamedTable, Verdict,
    backfill::{Backfilled, publish_backlog},
    backoff::Backoff,
    broker::Broker,
    database::{Database, Replication, Sql},
    delivery::Delivery,
    monitor::Monitor,
    pipeline::{Drained, Left, Pipeline},
};
use crate::{
    admin::{Reporter, Side, SourceState},
    ledger::{ConfirmedLsn, Progress},
    outbox::Mapping,
    position::Lsn,
    postgres::{
        SourceDatabase,
        backlog::BacklogError,
        catalog::{CatalogError, TableFacts},
        preflight,
        replication::{ReplicationError, SystemIdentity},
    },
    rabbitmq::BrokerOptions,
};

/// Everything one source needs. Where its rows come from is a [`Database`], where its messages go a [`Broker`].
#[derive(Clone, Debug)]
pub struct Source<D = SourceDatabase, B = BrokerOptions> {
    /// Its name in the configuration.
    pub name: String,
    /// Where rows come from.
    pub database: D,
    /// How they become messages.
    pub mapping: Mapping,
    /// Where messages go.
    pub broker: B,
    /// How they get there.
    pub relay: RelayOptions,
}

/// How a source ended after it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is left in flight.
    Drained,
    /// The drain timeout passed first, or a connection was lost and not made anew: what was unconfirmed will be published
    /// again.
    Undrained,
}

/// What one attempt leaves to the next.
#[derive(Debug, Default)]
struct Known {
    /// The server that `progress` speaks of. Another one, or another timeline of it, makes `progress` worthless:
    /// then the slot alone decides.
    server: Option<(String, u32)>,
    progress: Progress,
    /// The slot was there: should it be gone later, rows may be lost, and a new one must not be made silently.
    slot_seen: bool,
    /// The last attempt had the slot, or its backlog.
    was_connected: bool,
    /// Whose connection was lost since, and not made anew yet.
    lost: Option<Side>,
    /// The last attempt that had the slot left messages behind that may be with the broker and are not confirmed: whoever
    /// has the slot next publishes them again.
    unconfirmed: bool,
}

/// How often a standby asks for the slot. Half a second keeps the takeover well within two.
const STANDBY_INTERVAL: Duration = Duration::from_millis(500);

/// How long the way to the slot may take. Each connection has a limit of its own; this is for a server that takes
/// connections and then hangs, or that waits for a lock.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Relays one source until `shutdown`; returns only then.
pub async fn supervise<D: Database, B: Broker>(
    source: Source<D, B>,
    report: Reporter,
    mut shutdown: Shutdown,
) -> Ended {
    let mut known = Known::default();
    let mut backoff = Backoff::new(source.relay.backoff_min, source.relay.backoff_max);
    loop {
        let before = known.progress;
        let attempt = Attempt { source: &source, report: &report, number: backoff.attempts() as usize };
        let fault = match attempt.run(&mut known, &mut shutdown).await {
            Ok(ended) => return ended,
            Err(fault) => fault,
        };
        if known.progress != before {
            backoff.reset();
        }
        match fault.verdict() {
            Verdict::Again => {
                report.state(SourceState::Connecting, fault.explain());
                if std::mem::take(&mut known.was_connected) {
                    known.lost = Some(fault.side());
                }
                tokio::select! {
                    biased;
                    _ = shutdown.requested() => return known.ended(),
                    () = tokio::time::sleep(backoff.next()) => {}
                }
            }
            Verdict::Halt => {
                report.state(SourceState::Halted, fault.explain());
                shutdown.requested().await;
                return known.ended();
            }
        }
    }
}

/// One attempt, from the first connection to the fault that ends it.
struct Attempt<'a, D, B> {
    source: &'a Source<D, B>,
    report: &'a Reporter,
    /// Attempts that failed since the last progress.
    number: usize,
}

/// What an attempt begins with.
struct Connected<R, P> {
    connection: R,
    publisher: P,
    table: TableFacts,
    slot_exists: bool,
}

/// A slot of one's own: streaming from it, or about to be made from the backlog.
enum Acquired<S, B> {
    Stream(Streaming<S>),
    Backlog(Box<B>),
}

/// What a database streams with.
type StreamOf<D> = <<D as Database>::Replication as Replication>::Stream;

/// The slot's stream, and what the slot had confirmed just before it began.
struct Streaming<S> {
    stream: S,
    flushed: Option<Lsn>,
}

impl<D: Database, B: Broker> Attempt<'_, D, B> {
    async fn run(&self, known: &mut Known, shutdown: &mut Shutdown) -> Result<Ended, Fault> {
        let Source { database, mapping, relay, .. } = self.source;
        let Connected { connection, publisher, table, slot_exists } = tokio::select! {
            biased;
            _ = shutdown.requested() => return Ok(known.ended()),
            connected = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(known)) => {
                connected.map_err(|_| Fault::ConnectTimeout { after: CONNECT_TIMEOUT })??
            }
        };
        let monitor = Monitor::start(database, self.report);
        let mut delivery = Delivery::new(publisher, known.progress, relay, self.report);

        let acquired = {
            let from = known.progress.confirmed.map_or(Lsn::ZERO, ConfirmedLsn::lsn);
            let server = known.server.clone();
            let mut acquire = pin!(self.acquire(connection, slot_exists, from, server));
            loop {
                tokio::select! {
                    biased;
                    _ = shutdown.requested() => {
                        delivery.close().await;
                        return Ok(known.ended());
                    }
                    acquired = &mut acquire => break acquired?,
                    // Nothing is in flight yet: this only notices a broker that goes away while standing by.
                    idle = delivery.idle() => idle?,
                }
            }
        };
        known.was_connected = true;
        if let Some(side) = known.lost.take() {
            self.report.reconnected(side);
        }
        let Streaming { stream, flushed } = match acquired {
            Acquired::Stream(streaming) => {
                known.slot_seen = true;
                streaming
            }
            Acquired::Backlog(backlog) => {
                let backfill =
                    publish_backlog(*backlog, &mut delivery, mapping, relay, self.report, shutdown);
                known.unconfirmed = true;
                match backfill.await? {
                    Backfilled::Done(connection) => {
                        known.slot_seen = true;
                        known.unconfirmed = false;
                        tokio::select! {
                            biased;
                            started = self.start(connection, Lsn::ZERO) => started.map_err(|(_, error)| error)?,
                            () = shutdown.overdue() => {
                                delivery.close().await;
                                return Ok(Ended::Drained);
                            }
                        }
                    }
                    Backfilled::CutShort => {
                        delivery.close().await;
                        return Ok(Ended::Undrained);
                    }
                }
            }
        };

        // The slot may be ahead of us, when another instance had it; and at first the server's keepalives are behind the
        // slot, because decoding begins at its restart_lsn. Neither may take what we report back to before the slot: we
        // do not count on the server to refuse it (LogicalConfirmReceivedLocation, logical.c).
        if let Some(flushed) = flushed {
            delivery.ledger_mut().reached(flushed);
        }
        let table = StreamedTable::new(database.options().table.clone(), &table);
        let mut pipeline = Pipeline::new(stream, delivery, mapping, relay, self.report, table);
        let drained = match pipeline.run(shutdown, &monitor).await {
            Err(fault) if fault.verdict() == Verdict::Again => {
                known.keep(pipeline.abandon(fault.side()).await);
                return Err(fault);
            }
            drained => drained,
        };
        known.keep(pipeline.left());
        if let Err(fault) = pipeline.close().await {
            tracing::warn!(
                source = self.source.name,
                "the links did not close in order: {}",
                fault.explain()
            );
        }
        match drained? {
            Drained::Clean => Ok(Ended::Drained),
            Drained::TimedOut { unconfirmed } => {
                tracing::error!(
                    source = self.source.name,
                    unconfirmed,
                    "drain_timeout_s passed; the unconfirmed messages will be published again"
                );
                Ok(Ended::Undrained)
            }
        }
    }

    /// Both links, everything that must hold before a slot is touched, and the topology.
    async fn connect(&self, known: &mut Known) -> Result<Connected<D::Replication, B::Publisher>, Fault> {
        let Source { name, mapping, broker, .. } = self.source;
        let database = self.source.database.options();
        let sql = self.source.database.connect_sql(&self.application_name()).await?;
        let facts = sql.facts(database).await?;
        let slot = facts.slots.iter().find(|slot| slot.name == database.slot);
        let slot_exists = slot.is_some();
        if let Some(lost) = slot.filter(|slot| slot.is_lost()) {
            let why = lost.invalidation.as_deref().unwrap_or("max_slot_wal_keep_size was exceeded");
            return Err(Fault::SlotLost {
                slot: database.slot.clone(),
                why: why.to_owned(),
                confirmed_flush: lost.confirmed_flush,
            });
        }
        if known.slot_seen && !slot_exists {
            return Err(Fault::SlotGone { slot: database.slot.clone(), progress: known.progress });
        }
        let checks = preflight::checks(database, &mapping.columns, &facts);
        let Some(table) = facts.table.filter(|_| checks.iter().all(|check| check.failure().is_none())) else {
            return Err(Fault::Preflight(checks));
        };
        known.slot_seen |= slot_exists;
        // Before the slot: when WAL is decoded, the publication is looked up as it was at that time.
        if facts.publication.is_none() {
            sql.create_publication(database, table.kind).await?;
            tracing::info!(source = name, publication = database.publication, "created the publication");
        }
        let mut connection = self.replication_connection().await?;
        known.meet(connection.identify_system().await?, name);
        let publisher = broker.connect(&self.application_name(), self.number).await?;
        Ok(Connected { connection, publisher, table, slot_exists })
    }

    /// Shown in `pg_stat_activity` and in RabbitMQ's management.
    fn application_name(&self) -> String {
        format!("outboxd {}", self.source.name)
    }

    /// Waits until the slot is ours, as a standby while another instance has it.
    async fn acquire(
        &self,
        mut connection: D::Replication,
        mut slot_exists: bool,
        from: Lsn,
        server: Option<(String, u32)>,
    ) -> Result<Acquired<StreamOf<D>, D::Backlog>, Fault> {
        loop {
            if !slot_exists {
                match self.make_slot(connection).await {
                    Ok(acquired) => return Ok(acquired),
                    Err(Fault::Backlog(error)) => match *error {
                        BacklogError::AlreadyThere(_) => slot_exists = true,
                        BacklogError::Busy(_) => self.stand_by(error.to_string()).await,
                        _ => return Err(Fault::Backlog(error)),
                    },
                    Err(fault) => return Err(fault),
                }
                connection = self.replication_connection().await?;
                // What is known is known of the server that this attempt has met.
                if server != Some(connection.identify_system().await?.names()) {
                    return Err(Fault::ServerChanged);
                }
                continue;
            }
            connection = match self.start(connection, from).await {
                Ok(stream) => return Ok(Acquired::Stream(stream)),
                Err((Some(connection), error)) if error.sqlstate() == Some(OBJECT_IN_USE) => {
                    let holder = error.server().map_or_else(String::new, |server| server.message.clone());
                    self.stand_by(format!("another instance has the slot: {holder}")).await;
                    connection
                }
                Err((_, error)) => return Err(error.into()),
            };
        }
    }

    async fn stand_by(&self, reason: String) {
        self.report.state(SourceState::Standby, reason);
        tokio::time::sleep(STANDBY_INTERVAL).await;
    }

    async fn replication_connection(&self) -> Result<D::Replication, Fault> {
        Ok(self.source.database.connect_replication(&self.application_name()).await?)
    }

    async fn start(
        &self,
        mut connection: D::Replication,
        from: Lsn,
    ) -> Result<Streaming<StreamOf<D>>, (Option<D::Replication>, ReplicationError)> {
        let SourceDatabase { slot, publication, .. } = self.source.database.options();
        let flushed = connection.confirmed_flush(slot).await.map_err(|error| (None, error))?;
        let stream = connection.start(slot, publication, from).await?;
        Ok(Streaming { stream, flushed })
    }

    async fn make_slot(
        &self,
        connection: D::Replication,
    ) -> Result<Acquired<StreamOf<D>, D::Backlog>, Fault> {
        let Source { database, mapping, relay, .. } = self.source;
        let sql = database.connect_sql(&self.application_name()).await?;
        match relay.backlog {
            BacklogPolicy::Publish => {
                let backlog = database.begin_backlog(connection, sql, &mapping.columns).await?;
                Ok(Acquired::Backlog(Box::new(backlog)))
            }
            BacklogPolicy::Skip => {
                match sql.create_slot(&database.options().slot).await {
                    Ok(()) | Err(CatalogError::SlotExists(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                let streaming = self.start(connection, Lsn::ZERO).await.map_err(|(_, error)| error)?;
                Ok(Acquired::Stream(streaming))
            }
        }
    }
}

/// SQLSTATE of "replication slot is active".
const OBJECT_IN_USE: &str = "55006";

impl Known {
    fn keep(&mut self, Left { progress, unconfirmed }: Left) {
        self.progress = progress;
        self.unconfirmed = unconfirmed;
    }

    /// What to say of an end that comes while there is no connection.
    fn ended(&self) -> Ended {
        if self.unconfirmed { Ended::Undrained } else { Ended::Drained }
    }

    /// Compares the server with the one that progress was made with.
    fn meet(&mut self, server: SystemIdentity, source: &str) {
        let end = server.xlogpos;
        let server = server.names();
        if let Some(before) = &self.server
            && *before != server
        {
            tracing::warn!(
                source,
                "the server is another one, or was promoted (system identifier, timeline: {before:?}, now {server:?}); \
                 going on from what its slot says"
            );
            self.progress = Progress::default();
        }
        // A copy of the data directory was put back: same names, another history.
        if let Some(beyond) = self.progress.reaches().filter(|settled| *settled > end) {
            tracing::warn!(
                source,
                "the server's WAL ends at {end}, before {beyond} which was confirmed already: it was set back to an older \
                 state; going on from what its slot says"
            );
            self.progress = Progress::default();
        }
        self.server = Some(server);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;
    use crate::{
        ledger::{Ledger, Limits, Ordering},
        outbox::{AggregateKey, Message, Timestamp},
        position::Position,
    };

    fn server(system_id: &str, timeline: u32, xlogpos: u64) -> SystemIdentity {
        SystemIdentity { system_id: system_id.to_owned(), timeline, xlogpos: Lsn(xlogpos), database: None }
    }

    fn message(position: Position) -> Message {
        Message {
            position,
            committed_at: Timestamp(0),
            aggregate: AggregateKey(1),
            exchange: String::new(),
            routing_key: String::new(),
            message_id: String::new(),
            event_type: String::new(),
            content_type: "".into(),
            headers: Vec::new(),
            body: bytes::Bytes::new(),
        }
    }

    /// What a process knows that has confirmed up to 100 on timeline 1 of server A.
    fn known() -> Known {
        let limits = Limits { messages: 1, bytes: 1 };
        let mut ledger = Ledger::new(Ordering::PerAggregate, limits, Progress::default());
        ledger.reached(Lsn(100));
        let server = Some(("A".to_owned(), 1));
        Known { server, progress: ledger.progress(), slot_seen: true, ..Known::default() }
    }

    #[test]
    fn progress_holds_on_the_same_server_and_not_on_another_nor_after_a_promotion() {
        for (server, holds) in
            [(server("A", 1, 100), true), (server("B", 1, 900), false), (server("A", 2, 900), false)]
        {
            let mut known = known();
            known.meet(server.clone(), "orders");
            assert_eq!(known.progress.confirmed.is_some(), holds, "{server:?}");
            assert!(known.slot_seen);
        }
    }

    #[test]
    fn a_server_set_back_to_an_older_copy_of_itself_does_not_lose_what_it_writes_next() {
        let mut known = known();
        known.meet(server("A", 1, 99), "orders");
        assert_eq!(known.progress, Progress::default());
    }

    /// The rows that it writes next have positions that were settled before, in a history that is gone.
    #[test]
    fn a_server_set_back_to_before_a_half_confirmed_transaction_does_not_lose_what_it_writes_next() {
        let limits = Limits { messages: 10, bytes: 1 << 20 };
        let mut ledger = Ledger::new(Ordering::PerAggregate, limits, known().progress);
        for index in 0..2 {
            ledger.push(message(Position { commit_lsn: Lsn(200), index }));
        }
        let (tag, _) = ledger.publish_next(std::time::Instant::now()).expect("one may go");
        ledger.settle(tag);
        let mut known = Known { progress: ledger.progress(), ..known() };
        known.meet(server("A", 1, 300), "orders");
        assert!(known.progress.position.is_some());
        known.meet(server("A", 1, 150), "orders");
        assert_eq!(known.progress, Progress::default());
    }
}
