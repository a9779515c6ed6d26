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
    cleanup::{Cleanup, Ground},
    database::{Backlog, Database, Replication, Rows, Sql, Stream},
    delivery::Delivery,
    fence_queue,
    monitor::{Monitor, Published},
    parker::Parker,
    pipeline::{Drained, Left, Pipeline, StreamOf},
};
use crate::{
    admin::{Reporter, Side, SourceState},
    ledger::{ConfirmedLsn, Progress, Settled},
    outbox::{Mapping, Timestamp},
    position::Lsn,
    postgres::{
        SourceDatabase,
        backlog::BacklogError,
        catalog::{CatalogError, TableFacts, TableKind},
        continuity::{Evidence, Gap, Memory},
        preflight,
        publication::PublishedBy,
        replication::{BeforeStream, ReplicationError},
        slot_record::{Confirmed, LEFT_OUT, SlotRecord},
        snapshot::Selection,
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
#[derive(Debug)]
struct Known {
    /// The server that `settled` speaks of. Another one, or another timeline of it, makes `settled` worthless:
    /// then the slot alone decides.
    server: Option<(String, u32)>,
    settled: Settled,
    /// The name under which this process holds slots.
    holder: String,
    /// The slot as it was there: should it be gone later, or another, rows may be lost, and a new one must not be made
    /// silently.
    slot: Option<Memory>,
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

/// How often a source that halted for its slot looks whether somebody has mended it.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(3);

/// How long the last word to the slot's record may take. It is not needed for safety: without it a slot that is made anew
/// while nobody looks cannot be told from the old one.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the way to the slot may take. Each connection has a limit of its own; this is for a server that takes
/// connections and then hangs, or that waits for a lock.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Relays one source until `shutdown`; returns only then.
pub async fn supervise<D: Database, B: Broker>(
    source: Source<D, B>,
    report: Reporter,
    mut shutdown: Shutdown,
) -> Ended {
    let mut known = Known::new();
    let mut backoff = Backoff::new(source.relay.backoff_min, source.relay.backoff_max);
    loop {
        let before = known.settled.progress;
        let attempt = Attempt { source: &source, report: &report, number: backoff.attempts() as usize };
        let fault = match attempt.run(&mut known, &mut shutdown).await {
            Ok(ended) => return ended,
            Err(fault) => fault,
        };
        if known.settled.progress != before {
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
            Verdict::HaltUntilRecovered => {
                report.state(SourceState::Halted, fault.explain());
                // Whatever slot is made now, it alone says where to go on.
                known.settled = Settled::default();
                tokio::select! {
                    biased;
                    _ = shutdown.requested() => return known.ended(),
                    () = tokio::time::sleep(RECOVERY_INTERVAL) => {}
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
    evidence: Evidence,
}

/// A slot of one's own: streaming from it, or about to be made from the backlog.
enum Acquired<S, B> {
    Stream {
        streaming: Streaming<S>,
        /// The slot is new.
        made: Option<Made>,
    },
    Backlog(Box<B>),
}

/// How a new slot was made.
#[derive(Clone, Copy, Debug)]
struct Made {
    /// Rows from then on are its own.
    at: Timestamp,
    /// The rows before were published.
    after_backlog: bool,
}

/// The slot's stream, and what was asked just before it began.
struct Streaming<S> {
    stream: S,
    before: BeforeStream,
}

impl<D: Database, B: Broker> Attempt<'_, D, B> {
    async fn run(&self, known: &mut Known, shutdown: &mut Shutdown) -> Result<Ended, Fault> {
        let Source { database, mapping, relay, .. } = self.source;
        let Connected { connection, publisher, table, mut evidence } = tokio::select! {
            biased;
            _ = shutdown.requested() => return Ok(known.ended()),
            connected = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(known)) => {
                connected.map_err(|_| Fault::ConnectTimeout { after: CONNECT_TIMEOUT })??
            }
        };
        let monitor = Monitor::start(database, &known.holder, self.report, relay.server_silence_max);
        let parker = Parker::new(database, self.application_name(), relay);
        let mut delivery = Delivery::new(publisher, known.settled.clone(), relay, self.report, parker);

        let acquired = {
            let from = known.settled.progress.confirmed.map_or(Lsn::ZERO, ConfirmedLsn::lsn);
            let mut acquire = pin!(self.acquire(connection, &mut evidence, known.slot.as_ref(), from));
            loop {
                tokio::select! {
                    biased;
                    _ = shutdown.requested() => {
                        delivery.close().await;
                        return Ok(known.ended());
                    }
                    acquired = &mut acquire => break acquired?,
                    for_at_least = monitor.server_silent() => return Err(Fault::ServerSilent { for_at_least }),
                    // Nothing is in flight yet: this only notices a broker that goes away while standing by.
                    idle = delivery.idle() => idle?,
                }
            }
        };
        known.was_connected = true;
        if let Some(side) = known.lost.take() {
            self.report.reconnected(side);
        }
        // After the slot, so that whoever merely waits asks one server and not two, and never holds what another needs.
        delivery.fence(&fence_queue(&database.options().slot, &evidence.server.system_id));
        let mut deadline = shutdown.clone();
        let begin = async {
            let (mut streaming, made) = match acquired {
                Acquired::Stream { streaming, made } => (streaming, made),
                Acquired::Backlog(mut backlog) => {
                    let taken_at = backlog.rows().taken_at();
                    known.unconfirmed = true;
                    let backfill = publish_backlog(*backlog, &mut delivery, mapping, self.report, shutdown);
                    let Backfilled::Done { connection, .. } = backfill.await? else { return Ok(None) };
                    known.unconfirmed = false;
                    let started = self.start(connection, Lsn::ZERO).await;
                    let made = Made { at: taken_at, after_backlog: true };
                    (started.map_err(|(_, error)| error)?, Some(made))
                }
            };
            let claim = self.claim(known, &mut evidence, streaming.before, made, table.kind);
            let mut claim = pin!(tokio::time::timeout(CONNECT_TIMEOUT, claim));
            let ground = loop {
                tokio::select! {
                    biased;
                    claimed = &mut claim => {
                        break claimed.map_err(|_| Fault::ConnectTimeout { after: CONNECT_TIMEOUT })??;
                    }
                    // Nobody reads yet, and a first host that does not answer may take as long as wal_sender_timeout.
                    () = tokio::time::sleep(relay.keepalive_interval) => {
                        streaming.stream.send_status(None, false).await?;
                    }
                }
            };
            Ok::<_, Fault>(Some((streaming, ground)))
        };
        let begun = tokio::select! {
            biased;
            begun = begin => begun?,
            // Nobody listens on the connection that holds the temporary slot, and a row that does not come is no error.
            for_at_least = monitor.server_silent() => return Err(Fault::ServerSilent { for_at_least }),
            () = deadline.overdue() => None,
        };
        let Some((Streaming { stream, before }, ground)) = begun else {
            delivery.close().await;
            return Ok(known.ended());
        };

        // The slot may be ahead of us, when another instance had it; and at first the server's keepalives are behind the
        // slot, because decoding begins at its restart_lsn. Neither may take what we report back to before the slot: we
        // do not count on the server to refuse it (LogicalConfirmReceivedLocation, logical.c).
        if let Some(flushed) = before.confirmed_flush {
            delivery.ledger_mut().reached(flushed);
        }
        let table = StreamedTable::new(database.options().table.clone(), &table);
        let mut pipeline = Pipeline::new(stream, delivery, mapping, relay, self.report, table);
        if let Some(Memory { published_by: Some(by), confirmed, .. }) = known.slot {
            let until = evidence.record.as_ref().and_then(|record| record.confirmed_until);
            monitor.expect(Published { by, confirmed, until });
        }
        let cleanup = Cleanup::start(database, &mapping.columns, monitor.follow(), self.report, ground);
        let ended = match pipeline.run(shutdown, &monitor).await {
            Err(Fault::Replication(error)) if database.options().is_unpublished(&error) => {
                tracing::warn!(source = self.source.name, %error, "the server refuses to send what is older than the publication");
                known.keep(pipeline.left());
                Err(self.passed_over(pipeline.refused(), &mut evidence, known.slot.as_ref()).await)
            }
            Err(Fault::Gap { gap, .. }) => {
                known.keep(pipeline.left());
                Err(self.passed_over(*gap, &mut evidence, known.slot.as_ref()).await)
            }
            ended => ended,
        };
        drop(cleanup);
        let drained = match ended {
            Err(fault) if fault.verdict() == Verdict::Again => {
                known.keep(pipeline.abandon(fault.side()).await);
                return Err(fault);
            }
            drained => drained,
        };
        known.keep(pipeline.left());
        match pipeline.close().await {
            Ok(()) => self.release(known).await,
            Err(fault) => {
                tracing::warn!(
                    source = self.source.name,
                    "the links did not close in order: {}",
                    fault.explain()
                );
            }
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
        let checks = preflight::checks(database, &mapping.columns, &facts);
        // What is wrong with the slot, or with what feeds it, may be a gap, which is judged first.
        let failed = |besides: &[&str]| {
            let mut failures = checks.iter().filter(|check| check.failure().is_some());
            failures.any(|check| !besides.contains(&check.name))
        };
        if failed(&[preflight::SLOT, preflight::PUBLICATION]) {
            return Err(Fault::Preflight(checks));
        }
        let mut connection = self.replication_connection().await?;
        let remembered = known.slot.as_ref();
        let timeline = remembered.map(|slot| slot.timeline);
        let mut evidence = self.source.database.evidence(&sql, &mut connection, timeline).await?;
        self.judge(&sql, &evidence, remembered).await?;
        let Some(table) = facts.table.filter(|_| !failed(&[])) else {
            return Err(Fault::Preflight(checks));
        };
        known.meet(&evidence, name);
        // Before the slot: when WAL is decoded, the publication is looked up as it was at that time.
        if facts.publication.is_none() && evidence.slot.is_none() {
            sql.mend_publication(database, table.kind).await?;
            tracing::info!(source = name, publication = database.publication, "created the publication");
            self.source.database.look_again(&sql, &mut evidence).await?;
        }
        if !facts.records.exists {
            sql.create_records(database).await?;
        }
        if database.parks && !facts.parked.exists {
            sql.create_parked(database).await?;
        }
        let publisher = broker.connect(&self.application_name(), self.number).await?;
        Ok(Connected { connection, publisher, table, evidence })
    }

    /// Whether the slot may be used. A gap is written down: what proves it may be nothing but this process's memory.
    async fn judge(
        &self,
        sql: &D::Sql,
        evidence: &Evidence,
        remembered: Option<&Memory>,
    ) -> Result<(), Fault> {
        let Source { name, .. } = self.source;
        let database = self.source.database.options();
        let gap = match evidence.judge(remembered) {
            Ok(_) => return Ok(()),
            Err(gap) => gap,
        };
        self.mark(sql, evidence, &gap, remembered).await;
        Err(Fault::gap(&database.slot, name, gap))
    }

    /// Writes a gap down, as far as that can be done.
    async fn mark(&self, sql: &D::Sql, evidence: &Evidence, gap: &Gap, remembered: Option<&Memory>) {
        let Source { name, .. } = self.source;
        let database = self.source.database.options();
        if let Some(marked) = evidence.to_be_marked(gap, remembered) {
            let found = evidence.record.as_ref().map(|record| record.version);
            if let Err(error) = sql.mark_record(database, found, &marked).await {
                let error = Fault::from(error).explain();
                tracing::warn!(source = name, "the gap could not be written down: {error}");
            }
        }
    }

    /// Writes down that the stream passes rows over, from where `found` says. If the slot is not there any more, or was torn down,
    /// that is the reason, and not the publication that went with it. Should the look fail, the next attempt finds all this, but
    /// knows less well where a gap begins.
    async fn passed_over(&self, found: Gap, evidence: &mut Evidence, remembered: Option<&Memory>) -> Fault {
        let Source { name, database, .. } = self.source;
        let look = async {
            let sql = database.connect_sql(&self.application_name()).await?;
            database.look_again(&sql, evidence).await?;
            let found =
                Gap { confirmed: found.confirmed.or(remembered.and_then(|slot| slot.confirmed)), ..found };
            let gap = match evidence.judge(remembered) {
                Err(judged) if !judged.cause.is_of_the_publication() => judged,
                Err(judged) => Gap { cause: judged.cause, ..found },
                Ok(_) => found,
            };
            self.mark(&sql, evidence, &gap, remembered).await;
            Ok::<_, Fault>(gap)
        };
        match tokio::time::timeout(RELEASE_TIMEOUT, look).await {
            Ok(Ok(gap)) => Fault::gap(&database.options().slot, name, gap),
            Ok(Err(fault)) => fault,
            Err(_) => Fault::ConnectTimeout { after: RELEASE_TIMEOUT },
        }
    }

    /// Writes down that the slot is ours, before it is moved; not before looking once more whether it is the right one,
    /// as a standby may have waited for days. `made`: the slot is new. Says whether every row before it was published.
    async fn claim(
        &self,
        known: &mut Known,
        evidence: &mut Evidence,
        stream: BeforeStream,
        made: Option<Made>,
        kind: TableKind,
    ) -> Result<Ground, Fault> {
        let database = &self.source.database;
        let sql = database.connect_sql(&self.application_name()).await?;
        database.look_again(&sql, evidence).await?;
        self.judge(&sql, evidence, known.slot.as_ref()).await?;
        let before = evidence.record.as_ref();
        let seen = known.slot.as_ref().map_or(0, |slot| slot.version);
        let (system_id, timeline) = evidence.server.clone().names();
        let confirmed = stream.confirmed_flush.max(before.map(|record| record.confirmed_flush));
        // Of a table that was renamed a moment ago what was known stays true.
        let published_by = evidence.publishing.by().or(before.and_then(|record| record.published_by));
        let mut unaccounted = unaccounted(before, made, published_by);
        // What is not there need not be accounted for.
        if unaccounted.is_some() && sql.table_is_empty(database.options(), kind).await? {
            unaccounted = None;
        }
        let record = SlotRecord {
            system_id: system_id.clone(),
            timeline,
            confirmed_flush: confirmed.unwrap_or(Lsn::ZERO),
            confirmed_until: made.map(|made| made.at).or(before.and_then(|record| record.confirmed_until)),
            holder: Some(known.holder.clone()),
            gap: None,
            published_by,
            unaccounted,
            version: before.map_or(0, |record| record.version).max(seen) + 1,
        };
        // Ours already, by an earlier attempt: nothing new, and no WAL for it.
        let ours = before.is_some_and(|before| {
            let SlotRecord { holder, published_by, unaccounted, .. } = &record;
            (&before.holder, before.timeline) == (holder, timeline)
                && (&before.published_by, &before.unaccounted) == (published_by, unaccounted)
        });
        // Before it is written, for a connection that is lost then does not tell whether it was.
        let holder = known.holder.clone();
        let memory =
            known.slot.insert(Memory { holder, system_id, timeline, confirmed, published_by, version: seen });
        if !ours {
            if !sql.claim_record(database.options(), &record, stream.pid).await? {
                return Err(Fault::SlotTaken { slot: database.options().slot.clone() });
            }
            memory.version = record.version;
        }
        Ok(match (record.unaccounted, published_by) {
            (None, Some(published_by)) => Ground::Firm(published_by),
            (why, _) => {
                Ground::Doubtful(why.unwrap_or_else(|| "the table cannot be found under its name".into()))
            }
        })
    }

    /// Writes down where exactly the slot was left.
    async fn release(&self, known: &Known) {
        let Source { name, database, .. } = self.source;
        let Progress { confirmed: Some(confirmed), position, committed_at, .. } = known.settled.progress
        else {
            return;
        };
        let last = Confirmed { flush: confirmed.lsn(), position, until: committed_at };
        let release = async {
            let sql = database.connect_sql(&self.application_name()).await?;
            Ok::<_, Fault>(sql.release_record(database.options(), &known.holder, last).await?)
        };
        let failed = match tokio::time::timeout(RELEASE_TIMEOUT, release).await {
            Ok(Ok(())) => return,
            Ok(Err(fault)) => fault.explain(),
            Err(_) => format!("no answer within {} s", RELEASE_TIMEOUT.as_secs()),
        };
        tracing::warn!(
            source = name,
            "the slot's record does not say that the slot was left in order: {failed}"
        );
    }

    /// Shown in `pg_stat_activity` and in RabbitMQ's management.
    fn application_name(&self) -> String {
        format!("outboxd {}", self.source.name)
    }

    /// Waits until the slot is ours, as a standby while another instance has it.
    async fn acquire(
        &self,
        mut connection: D::Replication,
        evidence: &mut Evidence,
        remembered: Option<&Memory>,
        from: Lsn,
    ) -> Result<Acquired<StreamOf<D>, D::Backlog>, Fault> {
        let mut slot_exists = evidence.slot.is_some();
        loop {
            if !slot_exists {
                match self.make_slot(connection, evidence, remembered).await {
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
                if evidence.server.clone().names() != connection.identify_system().await?.names() {
                    return Err(Fault::ServerChanged);
                }
                continue;
            }
            connection = match self.start(connection, from).await {
                Ok(streaming) => return Ok(Acquired::Stream { streaming, made: None }),
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
        let before = connection.before_stream(slot).await.map_err(|error| (None, error))?;
        let stream = connection.start(slot, publication, from).await?;
        Ok(Streaming { stream, before })
    }

    async fn make_slot(
        &self,
        connection: D::Replication,
        evidence: &mut Evidence,
        remembered: Option<&Memory>,
    ) -> Result<Acquired<StreamOf<D>, D::Backlog>, Fault> {
        let Source { database, mapping, relay, .. } = self.source;
        let sql = database.connect_sql(&self.application_name()).await?;
        // Another instance may have had a slot and lost it while we stood by.
        database.look_again(&sql, evidence).await?;
        self.judge(&sql, evidence, remembered).await?;
        if evidence.slot.is_none() && evidence.publishing.by().is_none() {
            return Err(Fault::PublicationGone);
        }
        match relay.backlog {
            BacklogPolicy::Publish => {
                let all = Selection::default();
                let backlog = database.begin_backlog(connection, sql, &mapping.columns, &all).await?;
                Ok(Acquired::Backlog(Box::new(backlog)))
            }
            BacklogPolicy::Skip => {
                let made = Some(Made { at: Timestamp::now(), after_backlog: false });
                match sql.create_slot(&database.options().slot).await {
                    Ok(()) | Err(CatalogError::SlotExists(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                let streaming = self.start(connection, Lsn::ZERO).await.map_err(|(_, error)| error)?;
                Ok(Acquired::Stream { streaming, made })
            }
        }
    }
}

/// Why the table may hold rows that were never published although the slot is right.
fn unaccounted(
    before: Option<&SlotRecord>,
    made: Option<Made>,
    published_by: Option<PublishedBy>,
) -> Option<String> {
    let why = match before.filter(|record| !record.is_torn_down()) {
        Some(SlotRecord { unaccounted: Some(why), .. }) => return Some(why.clone()),
        Some(SlotRecord { published_by: Some(before), .. }) if Some(*before) != published_by => {
            "the publication was altered, and may have published no inserts for a time"
        }
        Some(_) => return None,
        None => match made {
            Some(Made { after_backlog: true, .. }) => return None,
            Some(_) => LEFT_OUT,
            None => {
                "the table had rows when a slot was found that outboxd had not made, and they may be older than it"
            }
        },
    };
    Some(why.to_owned())
}

/// SQLSTATE of "replication slot is active".
const OBJECT_IN_USE: &str = "55006";

impl Known {
    fn new() -> Self {
        Self {
            server: None,
            settled: Settled::default(),
            holder: format!("{:032x}", fastrand::u128(..)),
            slot: None,
            was_connected: false,
            lost: None,
            unconfirmed: false,
        }
    }

    /// Takes in how far an attempt came.
    fn keep(&mut self, Left { settled, unconfirmed }: Left) {
        let progress = settled.progress;
        self.settled = settled;
        self.unconfirmed = unconfirmed;
        if let Some(slot) = &mut self.slot {
            slot.confirmed = progress.confirmed.map(ConfirmedLsn::lsn).max(slot.confirmed);
        }
    }

    /// What to say of an end that comes while there is no connection.
    fn ended(&self) -> Ended {
        if self.unconfirmed { Ended::Undrained } else { Ended::Drained }
    }

    /// Compares the server with the one that progress was made with. Whether its slot may be used has been judged.
    fn meet(&mut self, evidence: &Evidence, source: &str) {
        let end = evidence.server.xlogpos;
        let server = evidence.server.clone().names();
        if let Some(before) = &self.server
            && *before != server
        {
            tracing::warn!(
                source,
                "the server is another one, or was promoted (system identifier, timeline: {before:?}, now {server:?}); \
                 going on from what its slot says"
            );
            self.settled = Settled::default();
        }
        // A copy of the data directory was put back: same names, another history.
        if let Some(beyond) = self.settled.reaches().filter(|settled| *settled > end) {
            tracing::warn!(
                source,
                "the server's WAL ends at {end}, before {beyond} which was confirmed already: it was set back to an older \
                 state; going on from what its slot says"
            );
            self.settled = Settled::default();
        }
        if evidence.slot.is_some() && self.slot.is_none() {
            let (holder, (system_id, timeline)) = (self.holder.clone(), server.clone());
            let version = evidence.record.as_ref().map_or(0, |record| record.version);
            let published_by = evidence.publishing.by();
            self.slot = Some(Memory { holder, system_id, timeline, confirmed: None, published_by, version });
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
        postgres::{
            publication::{Publishing, Unpublished},
            replication::SystemIdentity,
        },
    };

    fn server(system_id: &str, timeline: u32, xlogpos: u64) -> Evidence {
        let system_id = system_id.to_owned();
        let server = SystemIdentity { system_id, timeline, xlogpos: Lsn(xlogpos), database: None };
        let publishing = Publishing::Not(Unpublished::Missing);
        Evidence { server, history: Vec::new(), record: None, slot: None, publishing, published_before: None }
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
        let mut ledger = Ledger::new(Ordering::PerAggregate, limits, Settled::default());
        ledger.reached(Lsn(100));
        let server = Some(("A".to_owned(), 1));
        Known { server, settled: ledger.settled(), ..Known::new() }
    }

    #[test]
    fn progress_holds_on_the_same_server_and_not_on_another_nor_after_a_promotion() {
        for (server, holds) in
            [(server("A", 1, 100), true), (server("B", 1, 900), false), (server("A", 2, 900), false)]
        {
            let mut known = known();
            known.meet(&server, "orders");
            assert_eq!(known.settled.progress.confirmed.is_some(), holds, "{server:?}");
        }
    }

    #[test]
    fn a_server_set_back_to_an_older_copy_of_itself_does_not_lose_what_it_writes_next() {
        let mut known = known();
        known.meet(&server("A", 1, 99), "orders");
        assert_eq!(known.settled, Settled::default());
    }

    /// The rows that it writes next have positions that were settled before, in a history that is gone.
    #[test]
    fn a_server_set_back_to_before_a_half_confirmed_transaction_does_not_lose_what_it_writes_next() {
        let limits = Limits { messages: 10, bytes: 1 << 20 };
        let mut ledger = Ledger::new(Ordering::PerAggregate, limits, known().settled);
        for index in 0..2 {
            ledger.push(message(Position { commit_lsn: Lsn(200), index }));
        }
        let (tag, _) = ledger.next_due(std::time::Instant::now()).expect("one may go");
        ledger.settle(tag);
        let mut known = Known { settled: ledger.settled(), ..known() };
        known.meet(&server("A", 1, 300), "orders");
        assert!(known.settled.progress.position.is_some());
        known.meet(&server("A", 1, 150), "orders");
        assert_eq!(known.settled, Settled::default());
    }
}
