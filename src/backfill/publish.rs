//! The loop that publishes rows of the table, for backlog, recovery and replay.
//!
//! Nothing is marked as done until all rows are confirmed. A run that is cut short begins again: duplicates, never a gap.

use std::time::Instant;

use futures_util::FutureExt;

use crate::{
    admin::{Reporter, SourceState},
    message::Mapping,
    relay::{
        Fault,
        broker::Publisher,
        database::{Backlog, Database, Rows},
        deadline::sleep_until,
        delivery::Delivery,
    },
};
use process::{clock::now, heartbeat::TURN_MAX, shutdown::Shutdown};

/// Purpose of publishing rows of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A slot is created after all confirms. A shutdown lets the reading go on until its deadline, because a finished backlog is
    /// not repeated.
    Slot,
    /// A replay: the messages are marked, and a shutdown ends the reading.
    Replay,
}

/// Progress through the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowsSettled {
    /// Number of rows, from the first on, that are confirmed, parked or dropped.
    pub(crate) settled: u64,
    /// Set if these are all rows.
    pub(crate) complete: bool,
}

/// Counts of rows that are all settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backfill {
    /// Rows confirmed by the broker.
    pub confirmed: u64,
    /// Rows parked by policy.
    pub parked: u64,
    /// Rows dropped by policy: unroutable ones, and ones that cannot become messages.
    pub dropped: u64,
}

/// End of a backlog.
pub(crate) enum Backfilled<R> {
    /// All rows are settled and the slot exists. The connection can stream from it.
    Done {
        /// The connection.
        connection: R,
        /// Counts of the rows.
        rows: Backfill,
    },
    /// A shutdown came before all rows were settled. The next start publishes the backlog again.
    CutShort,
}

/// Publishes the whole backlog, waits for the confirms, and creates the slot.
pub(crate) async fn publish_backlog<B: Backlog>(
    mut backlog: B,
    delivery: &mut Delivery<'_, impl Database, impl Publisher>,
    mapping: &Mapping,
    report: &Reporter,
    shutdown: &mut Shutdown,
) -> Result<Backfilled<B::Replication>, Fault> {
    let rows = backlog.rows();
    let published = publish_rows(rows, Purpose::Slot, delivery, mapping, report, shutdown).await?;
    if !published.complete {
        return Ok(Backfilled::CutShort);
    }
    let (parked, dropped) = (delivery.parked(), delivery.left_out());
    let rows = Backfill { confirmed: published.settled.saturating_sub(parked + dropped), parked, dropped };
    // Priorities: (1) the slot; (2) the drain timeout.
    tokio::select! {
        biased;
        connection = report.heartbeat().through(backlog.finish()) => {
            Ok(Backfilled::Done { connection: connection?, rows })
        }
        () = shutdown.overdue() => Ok(Backfilled::CutShort),
    }
}

/// Publishes all rows and waits for their confirms, or for `shutdown`.
///
/// # Errors
/// The first fault, also that of an invalid row: after everything before it is settled.
pub(crate) async fn publish_rows(
    rows: &mut impl Rows,
    purpose: Purpose,
    delivery: &mut Delivery<'_, impl Database, impl Publisher>,
    mapping: &Mapping,
    report: &Reporter,
    shutdown: &mut Shutdown,
) -> Result<RowsSettled, Fault> {
    delivery.enter(SourceState::Backlog);
    let mapper = mapping.resolve(rows.columns()).map_err(Fault::Mapping)?;
    tracing::info!(source = report.name(), order = %rows.order(), "publishing rows of the table");
    let (mut read, mut all_read) = (0_u64, false);
    // An invalid row is reported after everything before it is confirmed.
    let mut invalid = None;
    let mut deadline: Option<Instant> = None;
    loop {
        report.heartbeat().turn();
        let reading = !all_read && (deadline.is_none() || purpose == Purpose::Slot);
        if !reading && delivery.unsettled() == 0 {
            break;
        }
        if deadline.is_some_and(|deadline| deadline <= now() || !delivery.can_settle() && !reading) {
            break;
        }
        let may_read = reading && delivery.has_room();
        // Priorities: (1) the shutdown; (2) the broker's answers, which make room; (3) rows; (4) the timers.
        tokio::select! {
            biased;
            requested = shutdown.requested(), if deadline.is_none() => deadline = Some(requested),
            settled = delivery.next() => settled?,
            row = rows.next(), if may_read => {
                // Rows that have arrived already leave as one batch.
                let mut next = Some(row);
                while let Some(row) = next.take() {
                    let Some(row) = row? else {
                        all_read = true;
                        break;
                    };
                    if let Err(row) = delivery.admit(&mapper, row, purpose == Purpose::Replay) {
                        invalid = Some(row);
                        all_read = true;
                        break;
                    }
                    read += 1;
                    if delivery.has_room() {
                        next = rows.next().now_or_never();
                    }
                }
            }
            () = tokio::time::sleep(TURN_MAX) => {}
            () = sleep_until(deadline) => {}
        }
    }
    let settled = delivery.unsettled() == 0;
    if let Some(row) = invalid
        && settled
    {
        report.stuck_at(rows.taken_at());
        return Err(Fault::InvalidRow(row));
    }
    let done = read - delivery.unsettled() as u64;
    let complete = all_read && settled;
    let (parked, dropped) = (delivery.parked(), delivery.left_out());
    let confirmed = done.saturating_sub(parked + dropped);
    tracing::info!(
        source = report.name(),
        confirmed,
        parked,
        dropped,
        complete,
        "rows of the table are settled"
    );
    Ok(RowsSettled { settled: done, complete })
}
