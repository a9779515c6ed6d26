//! One attempt, from the first connection to the fault or the shutdown that ends it. Each stage hands on what the next one needs.
//!
//! ```text
//! connect          both links               -> Connected
//! acquire          the slot, and the fence  -> Acquired
//! publish_backlog  rows older than the slot -> Begun
//! claim            the slot's record        -> Claimed
//! stream           until something ends it  -> Streamed
//! end              in as good an order as can be
//! ```

use std::{pin::pin, time::Duration};

use super::{
    acquire::{self, Acquisition},
    carryover::Carryover,
    claim::{claim, look_for_a_successor, release},
    connect::{Connected, connect},
    gap::{refused_before_claim, skips_rows},
    streaming::{Made, Streaming, start},
};
use crate::{
    admin::Reporter,
    backfill::publish::{Backfilled, publish_backlog},
    cleanup::task::{Cleanup, Coverage},
    ledger::ConfirmedLsn,
    parking::writer::ParkingWriter,
    position::Lsn,
    postgres::outbox_table::TableFacts,
    preflight::condition::Doubt,
    relay::{
        Ended, Fault, Shutdown, Source, StreamedTable, Verdict,
        broker::Broker,
        database::{Backlog, Database, Rows, Stream},
        delivery::{Delivery, Drained},
        fence_queue,
        monitor::{Monitor, PublicationSeen},
        pipeline::{Pipeline, StreamOf},
    },
    slot::continuity::{LastSeen, SlotHistory},
};

/// How long the way to the slot may take. Each connection has a limit of its own; this is for a server that takes
/// connections and then hangs, or that waits for a lock.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// One attempt to relay a source.
pub(super) struct Attempt<'a, D, B> {
    pub(super) source: &'a Source<D, B>,
    pub(super) report: &'a Reporter,
    /// Attempts that failed since the last progress.
    pub(super) number: usize,
}

/// Why an attempt goes no further.
enum Stop {
    /// Somebody asked for the end, and nothing streams yet that would have to be drained.
    Shutdown,
    Fault(Fault),
}

impl<F: Into<Fault>> From<F> for Stop {
    fn from(fault: F) -> Self {
        Stop::Fault(fault.into())
    }
}

/// What lasts from the connection to the end.
struct Links<'a, D: Database, P> {
    delivery: Delivery<'a, D, P>,
    monitor: Monitor,
    table: TableFacts,
    /// Of what `outbox.unpublished` means.
    doubt: Option<Doubt>,
    history: SlotHistory,
}

impl<'a, D: Database, B: Broker> Attempt<'a, D, B> {
    /// Relays until something ends it.
    ///
    /// # Errors
    /// The fault that ended it.
    pub(super) async fn run(
        &self,
        carryover: &mut Carryover,
        shutdown: &mut Shutdown,
    ) -> Result<Ended, Fault> {
        match self.live(carryover, shutdown).await {
            Ok(ended) => Ok(ended),
            Err(Stop::Shutdown) => Ok(carryover.ended()),
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }

    async fn live(&self, carryover: &mut Carryover, shutdown: &mut Shutdown) -> Result<Ended, Stop> {
        let connected = self.connect(carryover, shutdown).await?;
        let acquired = self.acquire(connected, carryover, shutdown).await?;
        let begun = self.publish_backlog(acquired, carryover, shutdown).await?;
        let claimed = self.claim(begun, carryover, shutdown).await?;
        let streamed = self.stream(claimed, carryover, shutdown).await;
        Ok(self.end(streamed, carryover).await?)
    }

    async fn connect(
        &self,
        carryover: &mut Carryover,
        shutdown: &mut Shutdown,
    ) -> Result<Connected<D::Replication, B::Publisher>, Stop> {
        let Self { source, report, number } = self;
        let connecting = connect(source, report, *number, carryover);
        // Priorities: (1) being asked to end; (2) the servers.
        tokio::select! {
            biased;
            _ = shutdown.requested() => Err(Stop::Shutdown),
            connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting) => match connected {
                Ok(connected) => Ok(connected?),
                Err(_) => Err(Fault::ConnectTimeout { after: CONNECT_TIMEOUT }.into()),
            }
        }
    }

    /// Waits for the slot, and asks for the fence.
    async fn acquire(
        &self,
        connected: Connected<D::Replication, B::Publisher>,
        carryover: &mut Carryover,
        shutdown: &mut Shutdown,
    ) -> Result<Acquired<'a, D, B::Publisher>, Stop> {
        let Self { source, report, .. } = *self;
        let Source { database, relay, broker, .. } = source;
        let Connected { connection, publisher, table, doubt, mut history } = connected;
        let monitor = Monitor::start(database, &carryover.holder, report, relay.server_silence_max);
        let parking = ParkingWriter::new(database, source.application_name(), relay);
        let mut delivery = Delivery::new(publisher, carryover.settled.clone(), relay, report, parking);
        delivery.watch(broker.watch());
        delivery.expect(carryover.stalled.clone());

        let acquired = {
            // Spares the server sending what is settled. A standby waits with what it has seen at first, which stays true.
            let ours = carryover.settled.progress.confirmed.map(ConfirmedLsn::lsn);
            let from = ours.max(history.settled()).unwrap_or(Lsn::ZERO);
            let acquisition = Acquisition { source, report, remembered: carryover.slot.as_ref(), from };
            let mut acquiring = pin!(acquisition.acquire(connection, &mut history));
            loop {
                // Priorities: (1) being asked to end; (2) the slot; (3) a server that has fallen silent; (4) the broker. Nothing is
                // in flight yet: the last only notices one that goes away while standing by.
                tokio::select! {
                    biased;
                    _ = shutdown.requested() => break None,
                    acquired = &mut acquiring => break Some(acquired?),
                    for_at_least = monitor.server_silent() => return Err(Fault::ServerSilent { for_at_least }.into()),
                    idle = delivery.idle() => idle?,
                }
            }
        };
        let Some(slot) = acquired else {
            delivery.close().await;
            look_for_a_successor(source, carryover, &mut history).await;
            return Err(Stop::Shutdown);
        };
        carryover.was_connected = true;
        carryover.slot_wants_use = false;
        if let Some(side) = carryover.lost.take() {
            report.reconnected(side);
        }
        // After the slot, so that whoever merely waits asks one server and not two, and never holds what another needs.
        delivery.fence(&fence_queue(&database.options().slot, &history.server.system_id));
        Ok(Acquired { slot, links: Links { delivery, monitor, table, doubt, history } })
    }

    /// Publishes the rows that are older than the slot, if it is to be made of them, and begins to stream.
    async fn publish_backlog(
        &self,
        Acquired { slot, mut links }: Acquired<'a, D, B::Publisher>,
        carryover: &mut Carryover,
        shutdown: &mut Shutdown,
    ) -> Result<Begun<'a, D, B::Publisher>, Stop> {
        let Source { database, mapping, .. } = self.source;
        let mut backlog = match slot {
            acquire::Acquired::Stream { streaming, made } => return Ok(Begun { streaming, made, links }),
            acquire::Acquired::Backlog(backlog) => backlog,
        };
        let Links { delivery, monitor, .. } = &mut links;
        let drain = shutdown.clone();
        let publish = async {
            let made = Made { at: backlog.rows().taken_at(), after_backlog: true };
            carryover.unconfirmed = true;
            let backfilled = publish_backlog(*backlog, delivery, mapping, self.report, shutdown).await;
            // The next one publishes all of it again.
            if let Err(Fault::ConfirmTimeout { what, .. }) = &backfilled {
                carryover.stalls(None, what.clone());
            }
            let Backfilled::Done { connection, .. } = backfilled? else { return Err(Stop::Shutdown) };
            carryover.unconfirmed = false;
            carryover.stalled = None;
            delivery.expect(None);
            let streaming = start(database, connection, Lsn::ZERO).await.map_err(|(_, error)| error)?;
            Ok((streaming, made))
        };
        let published = until_drained(publish, monitor, drain).await;
        let ((streaming, made), links) = links.go_on(published).await?;
        Ok(Begun { streaming, made: Some(made), links })
    }

    /// Writes down that the slot is ours.
    async fn claim(
        &self,
        Begun { mut streaming, made, mut links }: Begun<'a, D, B::Publisher>,
        carryover: &mut Carryover,
        shutdown: &Shutdown,
    ) -> Result<Claimed<'a, D, B::Publisher>, Stop> {
        let Links { monitor, table, history, .. } = &mut links;
        let claim = async {
            let claimed = {
                let claim = claim(self.source, carryover, history, streaming.before, made, table.kind);
                let mut claim = pin!(tokio::time::timeout(CONNECT_TIMEOUT, claim));
                loop {
                    // Priorities: (1) the claim; (2) the timer. Nobody reads the stream yet, and a first host that does not answer
                    // may take as long as wal_sender_timeout.
                    tokio::select! {
                        biased;
                        claimed = &mut claim => {
                            break claimed.map_err(|_| Fault::ConnectTimeout { after: CONNECT_TIMEOUT })?;
                        }
                        () = tokio::time::sleep(self.source.relay.keepalive_interval) => {
                            streaming.stream.send_status(None, false).await?;
                        }
                    }
                }
            };
            match claimed {
                Ok(coverage) => Ok((streaming, coverage)),
                Err(lost @ Fault::SlotTaken { .. }) => {
                    let remembered = carryover.slot.as_ref();
                    Err(refused_before_claim(self.source, lost, streaming, history, remembered).await.into())
                }
                Err(fault) => Err(fault.into()),
            }
        };
        let claimed = until_drained(claim, monitor, shutdown.clone()).await;
        let ((streaming, coverage), links) = links.go_on(claimed).await?;
        Ok(Claimed { streaming, coverage, links })
    }

    /// Streams until something ends it. A gap that the stream has behind it is written down.
    async fn stream(
        &self,
        Claimed { streaming, coverage, links }: Claimed<'a, D, B::Publisher>,
        carryover: &mut Carryover,
        shutdown: &mut Shutdown,
    ) -> Streamed<'a, D, B::Publisher> {
        let Source { name, database, mapping, relay, .. } = self.source;
        let Streaming { stream, before } = streaming;
        let Links { mut delivery, monitor, table, doubt, mut history } = links;
        // The slot may be ahead of us, when another instance had it; and at first the server's keepalives are behind the
        // slot, because decoding begins at its restart_lsn. Neither may take what we report back to before the slot: we
        // do not count on the server to refuse it (LogicalConfirmReceivedLocation, logical.c).
        if let Some(flushed) = before.confirmed_flush {
            delivery.advance_watermark(flushed);
        }
        // A server that crashed has forgotten how far its slot was confirmed. The record, read again when the slot was ours,
        // has it but for the last second.
        if let Some(settled) = history.settled() {
            delivery.advance_watermark(settled);
        }
        monitor.streams_by(before.pid);
        let coverage = match doubt {
            Some(doubt) => Coverage::Unproven {
                cure: format!("{}; and restart outboxd", doubt.cure()),
                why: doubt.to_string(),
            },
            None => coverage,
        };
        let table = StreamedTable::new(database.options().table.clone(), &table);
        let mut pipeline = Pipeline::new(stream, delivery, mapping, relay, self.report, table);
        if let Some(LastSeen { published_by: Some(by), confirmed, .. }) = carryover.slot {
            let until = history.record.as_ref().and_then(|record| record.confirmed_until);
            monitor.expect(PublicationSeen { by, confirmed, until });
        }
        let cleanup = Cleanup::start(database, &mapping.columns, monitor.follow(), self.report, coverage);
        let gap = match pipeline.run(shutdown, &monitor).await {
            Err(Fault::Replication(error)) if database.options().is_unpublished(&error) => {
                tracing::warn!(source = name, %error, "the server refuses to send what is older than the publication");
                pipeline.refused()
            }
            Err(Fault::Gap { gap, .. }) => *gap,
            ended => {
                drop(cleanup);
                return Streamed { pipeline, ended, _monitor: monitor };
            }
        };
        carryover.keep(pipeline.left());
        let fault = skips_rows(self.source, gap, &mut history, carryover.slot.as_ref()).await;
        Streamed { pipeline, ended: Err(fault), _monitor: monitor }
    }

    /// Ends in as good an order as can be, and keeps what the next attempt goes on from.
    async fn end(
        &self,
        Streamed { pipeline, ended, _monitor }: Streamed<'a, D, B::Publisher>,
        carryover: &mut Carryover,
    ) -> Result<Ended, Fault> {
        let name = &self.source.name;
        let drained = match ended {
            Err(fault) if matches!(fault.verdict(), Verdict::Again | Verdict::HaltUntilMended) => {
                let left = pipeline.abandon(fault.side()).await;
                if let Fault::ConfirmTimeout { what, .. } = &fault {
                    carryover.stalls(Some(left.unanswered.clone()), what.clone());
                }
                carryover.keep(left);
                return Err(fault);
            }
            drained => drained,
        };
        carryover.keep(pipeline.left());
        match pipeline.close().await {
            Ok(()) => release(self.source, carryover).await,
            Err(fault) => {
                tracing::warn!(source = name, "the links did not close in order: {}", fault.explain());
            }
        }
        match drained? {
            Drained::Clean => Ok(Ended::Drained),
            Drained::Unfinished { messages, why } => {
                tracing::error!(
                    source = name,
                    messages,
                    "not everything could be confirmed: {why}; these messages will be published again"
                );
                Ok(Ended::Undrained)
            }
        }
    }
}

/// The slot is ours, or is to be made of the backlog, and the fence is asked for.
struct Acquired<'a, D: Database, P> {
    slot: acquire::Acquired<StreamOf<D>, D::Backlog>,
    links: Links<'a, D, P>,
}

/// The slot is streamed from. `made`: it is new.
struct Begun<'a, D: Database, P> {
    streaming: Streaming<StreamOf<D>>,
    made: Option<Made>,
    links: Links<'a, D, P>,
}

/// The slot's record says that it is ours.
struct Claimed<'a, D: Database, P> {
    streaming: Streaming<StreamOf<D>>,
    coverage: Coverage,
    links: Links<'a, D, P>,
}

/// Streaming has ended.
struct Streamed<'a, D: Database, P> {
    pipeline: Pipeline<'a, D, P>,
    ended: Result<Drained, Fault>,
    /// Watches for as long as the connections last.
    _monitor: Monitor,
}

impl<D: Database, P: crate::relay::broker::Publisher> Links<'_, D, P> {
    /// Goes on after a step that has come to its end. After one that the end came before, takes leave of the broker.
    async fn go_on<T>(self, step: Result<T, Stop>) -> Result<(T, Self), Stop> {
        match step {
            Ok(done) => Ok((done, self)),
            Err(Stop::Shutdown) => {
                self.delivery.close().await;
                Err(Stop::Shutdown)
            }
            Err(fault) => Err(fault),
        }
    }
}

/// Runs a step of an attempt that has the slot, until the time for draining is over.
async fn until_drained<T>(
    step: impl Future<Output = Result<T, Stop>>,
    monitor: &Monitor,
    mut drain: Shutdown,
) -> Result<T, Stop> {
    // Priorities: (1) the step; (2) a server that has fallen silent, as nobody listens on the connection that holds the temporary
    // slot, and a row that does not come is no error; (3) the drain timeout.
    tokio::select! {
        biased;
        done = step => done,
        for_at_least = monitor.server_silent() => Err(Fault::ServerSilent { for_at_least }.into()),
        () = drain.overdue() => Err(Stop::Shutdown),
    }
}
