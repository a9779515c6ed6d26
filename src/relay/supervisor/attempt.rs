//! One attempt: connect, acquire the slot, publish what is older than it, stream, and end in as good an order as can be.

use std::{pin::pin, time::Duration};

use super::{
    Ended, Source,
    acquire::{Acquired, Made, Streaming},
    known::Known,
};
use crate::{
    admin::Reporter,
    ledger::ConfirmedLsn,
    position::Lsn,
    postgres::{
        catalog::{SlotFacts, TableFacts},
        condition::Doubt,
        continuity::{LastSeen, SlotHistory},
        family::Unpublished,
        preflight,
    },
    relay::{
        Fault, Shutdown, StreamedTable, Verdict,
        backfill::{Backfilled, publish_backlog},
        broker::Broker,
        cleanup::{Cleanup, Ground},
        database::{Backlog, Database, Rows, Sql, Stream},
        delivery::Delivery,
        fence_queue,
        monitor::{Monitor, Published},
        parker::Parker,
        pipeline::{Drained, Pipeline},
    },
};

/// From the first connection to the fault that ends it.
pub(super) struct Attempt<'a, D, B> {
    pub(super) source: &'a Source<D, B>,
    pub(super) report: &'a Reporter,
    /// Attempts that failed since the last progress.
    pub(super) number: usize,
}

/// What an attempt begins with.
struct Connected<R, P> {
    connection: R,
    publisher: P,
    table: TableFacts,
    doubt: Option<Doubt>,
    evidence: SlotHistory,
}

/// How long the way to the slot may take. Each connection has a limit of its own; this is for a server that takes
/// connections and then hangs, or that waits for a lock.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

impl<D: Database, B: Broker> Attempt<'_, D, B> {
    pub(super) async fn run(&self, known: &mut Known, shutdown: &mut Shutdown) -> Result<Ended, Fault> {
        let Source { database, mapping, relay, .. } = self.source;
        let Connected { connection, publisher, table, doubt, mut evidence } = tokio::select! {
            biased;
            _ = shutdown.requested() => return Ok(known.ended()),
            connected = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(known)) => {
                connected.map_err(|_| Fault::ConnectTimeout { after: CONNECT_TIMEOUT })??
            }
        };
        let monitor = Monitor::start(database, &known.holder, self.report, relay.server_silence_max);
        let parker = Parker::new(database, self.application_name(), relay);
        let mut delivery = Delivery::new(publisher, known.settled.clone(), relay, self.report, parker);
        delivery.watch(self.source.broker.watch());

        delivery.expect(known.stalled.clone());

        let acquired = {
            // Spares the server sending what is settled. A standby waits with what it has seen at first, which stays true.
            let ours = known.settled.progress.confirmed.map(ConfirmedLsn::lsn);
            let from = ours.max(evidence.settled()).unwrap_or(Lsn::ZERO);
            let mut acquire = pin!(self.acquire(connection, &mut evidence, known.slot.as_ref(), from));
            loop {
                tokio::select! {
                    biased;
                    _ = shutdown.requested() => break None,
                    acquired = &mut acquire => break Some(acquired?),
                    for_at_least = monitor.server_silent() => return Err(Fault::ServerSilent { for_at_least }),
                    // Nothing is in flight yet: this only notices a broker that goes away while standing by.
                    idle = delivery.idle() => idle?,
                }
            }
        };
        let Some(acquired) = acquired else {
            delivery.close().await;
            self.look_for_a_successor(known, &mut evidence).await;
            return Ok(known.ended());
        };
        known.was_connected = true;
        known.slot_wants_use = false;
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
                    let backfilled = backfill.await;
                    // The next one publishes all of it again.
                    if let Err(Fault::ConfirmTimeout { what, .. }) = &backfilled {
                        known.stalls(None, what.clone());
                    }
                    let Backfilled::Done { connection, .. } = backfilled? else { return Ok(None) };
                    known.unconfirmed = false;
                    known.stalled = None;
                    delivery.expect(None);
                    let started = self.start(connection, Lsn::ZERO).await;
                    let made = Made { at: taken_at, after_backlog: true };
                    (started.map_err(|(_, error)| error)?, Some(made))
                }
            };
            let claimed = {
                let claim = self.claim(known, &mut evidence, streaming.before, made, table.kind);
                let mut claim = pin!(tokio::time::timeout(CONNECT_TIMEOUT, claim));
                loop {
                    tokio::select! {
                        biased;
                        claimed = &mut claim => {
                            break claimed.map_err(|_| Fault::ConnectTimeout { after: CONNECT_TIMEOUT })?;
                        }
                        // Nobody reads yet, and a first host that does not answer may take as long as wal_sender_timeout.
                        () = tokio::time::sleep(relay.keepalive_interval) => {
                            streaming.stream.send_status(None, false).await?;
                        }
                    }
                }
            };
            match claimed {
                Ok(ground) => Ok(Some((streaming, ground))),
                Err(taken @ Fault::SlotTaken { .. }) => {
                    Err(self.refused_before_claim(taken, streaming, &mut evidence, known.slot.as_ref()).await)
                }
                Err(fault) => Err(fault),
            }
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
        // A server that crashed has forgotten how far its slot was confirmed. The record, read again when the slot was ours,
        // has it but for the last second.
        if let Some(settled) = evidence.settled() {
            delivery.ledger_mut().reached(settled);
        }
        monitor.streams_by(before.pid);
        let ground = match doubt {
            Some(doubt) => Ground::Doubtful {
                cure: format!("{}; and restart outboxd", doubt.cure()),
                why: doubt.to_string(),
            },
            None => ground,
        };
        let table = StreamedTable::new(database.options().table.clone(), &table);
        let mut pipeline = Pipeline::new(stream, delivery, mapping, relay, self.report, table);
        if let Some(LastSeen { published_by: Some(by), confirmed, .. }) = known.slot {
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
            Err(fault) if matches!(fault.verdict(), Verdict::Again | Verdict::HaltUntilMended) => {
                let left = pipeline.abandon(fault.side()).await;
                if let Fault::ConfirmTimeout { what, .. } = &fault {
                    known.stalls(Some(left.unanswered.clone()), what.clone());
                }
                known.keep(left);
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
            Drained::Unfinished { messages, why } => {
                tracing::error!(
                    source = self.source.name,
                    messages,
                    "not everything could be confirmed: {why}; these messages will be published again"
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
        let mut facts = sql.facts(database).await?;
        known.slot_wants_use = facts.slot(&database.slot).is_some_and(SlotFacts::wants_use);
        // A program may have the slot for a moment only: `acquire` looks for longer.
        for one in facts.slot_uses.iter_mut().filter(|one| one.stranger().is_some()) {
            one.holder = None;
        }
        let checks = preflight::checks(database, &mapping.columns, &facts);
        self.report.unpublished_tables(facts.family.unpublished.as_ref().map(Unpublished::explain));
        // What is wrong with the slot, or with what feeds it, may be a gap, which is judged first.
        let failed = |besides: &[&str]| {
            let mut failures = checks.iter().filter(|check| check.failure().is_some());
            failures.any(|check| !besides.contains(&&*check.name))
        };
        // Under a process that had the slot, a table of another name was put in its place, which is a gap, too.
        let judged = match known.slot {
            Some(_) => &[preflight::SLOT, preflight::PUBLICATION, preflight::RECORDED_TABLE][..],
            None => &[preflight::SLOT, preflight::PUBLICATION],
        };
        if failed(judged) {
            return Err(Fault::Preflight(checks));
        }
        let connection = self.source.database.connect_replication(&self.application_name()).await;
        let mut connection =
            connection.map_err(|error| Fault::no_replication(database, &facts.server, error))?;
        let remembered = known.slot.as_ref();
        let timeline = remembered.map(|slot| slot.timeline);
        let mut evidence = self.source.database.evidence(&sql, &mut connection, timeline).await?;
        self.judge(&sql, &evidence, remembered).await?;
        let Some(table) = facts.table.filter(|_| !failed(&[])) else {
            return Err(Fault::Preflight(checks));
        };
        let parked = checks.iter().find(|check| check.name == preflight::PARKED);
        let parked_elsewhere = parked.and_then(preflight::Check::as_warning).map(ToString::to_string);
        self.report.parked_elsewhere(parked_elsewhere);
        let doubt = facts.doubt;
        if let Some(doubt) = doubt.as_ref().filter(|_| !known.doubts_condition) {
            known.doubts_condition = true;
            tracing::warn!(source = name, "{doubt}: {}", doubt.cure());
        }
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
        Ok(Connected { connection, publisher, table, doubt, evidence })
    }

    pub(super) async fn replication_connection(&self) -> Result<D::Replication, Fault> {
        Ok(self.source.database.connect_replication(&self.application_name()).await?)
    }

    /// Shown in `pg_stat_activity` and in RabbitMQ's management.
    pub(super) fn application_name(&self) -> String {
        format!("outboxd {}", self.source.name)
    }
}
