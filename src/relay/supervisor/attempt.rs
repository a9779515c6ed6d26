//! One attempt, from the first connection to the fault or the shutdown that ends it. Each stage passes on what the next one needs.
//!
//! ```text
//! connect          both links               -> Connected
//! acquire          the slot, and the fence  -> Acquired
//! publish_backlog  rows older than the slot -> Begun
//! claim            the slot's record        -> Claimed
//! stream           until something ends it  -> Streamed
//! end              in the best possible order
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

/// Longest way to the slot. Each connection has a limit of its own. This one covers a server that accepts connections and then
/// hangs, or that waits for a lock.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// One attempt to relay a source.
pub(super) struct Attempt<'a, D, B> {
    pub(super) source: &'a Source<D, B>,
    pub(super) report: &'a Reporter,
    /// Number of attempts that failed since the last progress.
    pub(super) number: usize,
}

/// Reason why an attempt stops early.
enum Stop {
    /// Shutdown was requested before streaming began, so there is nothing to drain.
    Shutdown,
    Fault(Fault),
}

impl<F: Into<Fault>> From<F> for Stop {
    fn from(fault: F) -> Self {
        Stop::Fault(fault.into())
    }
}

/// Parts of an attempt that last from the connection to the end.
struct Links<'a, D: Database, P> {
    delivery: Delivery<'a, D, P>,
    monitor: Monitor,
    table: TableFacts,
    /// Doubt about the meaning of `outbox.unpublished`.
    doubt: Option<Doubt>,
    history: SlotHistory,
}

impl<'a, D: Database, B: Broker> Attempt<'a, D, B> {
    /// Relays until a fault or the shutdown.
    ///
    /// # Errors
    ///
    /// [`Fault`] that ended the attempt.
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
        Ok(self.report.heartbeat().through(self.end(streamed, carryover)).await?)
    }

    async fn connect(
        &self,
        carryover: &mut Carryover,
        shutdown: &mut Shutdown,
    ) -> Result<Connected<D::Replication, B::Publisher>, Stop> {
        let Self { source, report, number } = self;
        let connecting = connect(source, report, *number, carryover);
        let connecting = report.heartbeat().through(tokio::time::timeout(CONNECT_TIMEOUT, connecting));
        // Priorities: (1) shutdown; (2) the servers.
        tokio::select! {
            biased;
            _ = shutdown.requested() => Err(Stop::Shutdown),
            connected = connecting => match connected {
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
            // The server then does not send settled rows again. The position stays true for a standby, however long it waits.
            let ours = carryover.settled.progress.confirmed.map(ConfirmedLsn::lsn);
            let from = ours.max(history.settled()).unwrap_or(Lsn::ZERO);
            let acquisition = Acquisition { source, report, remembered: carryover.slot.as_ref(), from };
            let mut acquiring =
                pin!(report.heartbeat().through(acquisition.acquire(connection, &mut history)));
            loop {
                // Priorities: (1) shutdown; (2) the slot; (3) a silent server; (4) the broker. Nothing is in flight yet, so (4)
                // only notices a broker that goes away during the standby.
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
            let ending = async {
                delivery.close().await;
                look_for_a_successor(source, carryover, &mut history).await;
            };
            report.heartbeat().through(ending).await;
            return Err(Stop::Shutdown);
        };
        carryover.was_connected = true;
        carryover.slot_wants_use = false;
        if let Some(side) = carryover.lost.take() {
            report.reconnected(side);
        }
        // After the slot: an instance that waits asks one server and not two, and never holds the fence that another needs.
        delivery.fence(&fence_queue(&database.options().slot, &history.server.system_id));
        Ok(Acquired { slot, links: Links { delivery, monitor, table, doubt, history } })
    }

    /// Publishes the rows that are older than the slot, if the slot is created from them, and starts streaming.
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
            // The next attempt publishes all of the backlog again.
            if let Err(Fault::ConfirmTimeout { what, .. }) = &backfilled {
                carryover.stalls(None, what.clone());
            }
            let Backfilled::Done { connection, .. } = backfilled? else { return Err(Stop::Shutdown) };
            let slot = &database.options().slot;
            tracing::info!(
                source = self.source.name,
                slot,
                only = database.options().rows.unpublished,
                "created the slot; the rows before it are published"
            );
            carryover.unconfirmed = false;
            carryover.stalled = None;
            delivery.expect(None);
            let starting = start(database, connection, Lsn::ZERO);
            let streaming = self.report.heartbeat().through(starting).await.map_err(|(_, error)| error)?;
            Ok((streaming, made))
        };
        let published = until_drained(publish, monitor, drain).await;
        let ((streaming, made), links) = links.go_on(published).await?;
        Ok(Begun { streaming, made: Some(made), links })
    }

    /// Writes this instance's name into the slot's record.
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
                    // Priorities: (1) the claim; (2) the timer. Nobody reads the stream yet. A first host that does not answer may
                    // take as long as wal_sender_timeout.
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
        let claimed = until_drained(self.report.heartbeat().through(claim), monitor, shutdown.clone()).await;
        let ((streaming, coverage), links) = links.go_on(claimed).await?;
        Ok(Claimed { streaming, coverage, links })
    }

    /// Streams until a fault or the shutdown. Records a gap that the stream has skipped.
    async fn stream(
        &self,
        Claimed { streaming, coverage, links }: Claimed<'a, D, B::Publisher>,
        carryover: &mut Carryover,
        shutdown: &mut Shutdown,
    ) -> Streamed<'a, D, B::Publisher> {
        let Source { name, database, mapping, relay, .. } = self.source;
        let Streaming { stream, before } = streaming;
        let Links { mut delivery, monitor, table, doubt, mut history } = links;
        // The slot may be ahead of this process if another instance had it. The server's first keepalives are behind the slot,
        // because decoding begins at restart_lsn. Neither may move the reported position back; outboxd does not rely on the server
        // to refuse that (LogicalConfirmReceivedLocation, logical.c).
        if let Some(flushed) = before.confirmed_flush {
            delivery.advance_watermark(flushed);
        }
        // A server that crashed may have lost the slot's latest position. The record, read again after the slot was acquired, has
        // it except for the last second.
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
                tracing::warn!(source = name, %error, "PostgreSQL refuses to send rows that are older than the publication");
                pipeline.refused()
            }
            Err(Fault::Gap { gap, .. }) => *gap,
            ended => {
                drop(cleanup);
                return Streamed { pipeline, ended, _monitor: monitor };
            }
        };
        carryover.keep(pipeline.left());
        let looking = skips_rows(self.source, gap, &mut history, carryover.slot.as_ref());
        let fault = self.report.heartbeat().through(looking).await;
        Streamed { pipeline, ended: Err(fault), _monitor: monitor }
    }

    /// Ends in the best possible order, and keeps the state that the next attempt continues from.
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
                tracing::warn!(
                    source = name,
                    "a connection did not close in good order, so the next start may publish some messages again: {}",
                    fault.explain()
                );
            }
        }
        match drained? {
            Drained::Clean => Ok(Ended::Drained),
            Drained::Unfinished { messages, why } => {
                tracing::error!(
                    source = name,
                    messages,
                    "the drain ended before every message was confirmed: {why}; the next start publishes these messages again"
                );
                Ok(Ended::Undrained)
            }
        }
    }
}

/// The slot is acquired, or is about to be created from the backlog. The fence is requested.
struct Acquired<'a, D: Database, P> {
    slot: acquire::Acquired<StreamOf<D>, D::Backlog>,
    links: Links<'a, D, P>,
}

/// The stream has started. `made`: set if the slot is new.
struct Begun<'a, D: Database, P> {
    streaming: Streaming<StreamOf<D>>,
    made: Option<Made>,
    links: Links<'a, D, P>,
}

/// The slot's record names this instance as its holder.
struct Claimed<'a, D: Database, P> {
    streaming: Streaming<StreamOf<D>>,
    coverage: Coverage,
    links: Links<'a, D, P>,
}

/// Streaming has ended.
struct Streamed<'a, D: Database, P> {
    pipeline: Pipeline<'a, D, P>,
    ended: Result<Drained, Fault>,
    /// Watches as long as the connections last.
    _monitor: Monitor,
}

impl<D: Database, P: crate::relay::broker::Publisher> Links<'_, D, P> {
    /// Continues after a finished step. After a shutdown, closes the connection to the broker.
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

/// Runs a step of an attempt that has the slot, until the drain timeout.
async fn until_drained<T>(
    step: impl Future<Output = Result<T, Stop>>,
    monitor: &Monitor,
    mut drain: Shutdown,
) -> Result<T, Stop> {
    // Priorities: (1) the step; (2) a silent server, because nobody listens on the connection that holds the temporary slot, and a
    // missing row is no error; (3) the drain timeout.
    tokio::select! {
        biased;
        done = step => done,
        for_at_least = monitor.server_silent() => Err(Fault::ServerSilent { for_at_least }.into()),
        () = drain.overdue() => Err(Stop::Shutdown),
    }
}
