//! The loop over rows of the table: the backlog before the stream, recovery, and replay.
//!
//! Nothing is marked as done until all of it is confirmed, so whoever is cut short starts over: duplicates, never a gap.

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
use process::{clock::now, shutdown::Shutdown};

/// What the rows are published for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To make a slot when all are confirmed. A shutdown does not cut this short before its deadline, as what is finished
    /// need not be repeated.
    Slot,
    /// To have them published again: they are marked, and a shutdown ends the reading.
    Replay,
}

/// How far the rows came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowsSettled {
    /// So many, the first ones in order, are confirmed, or put aside or given up as policy says.
    pub(crate) settled: u64,
    /// There are no others.
    pub(crate) complete: bool,
}

/// What became of rows that are all settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backfill {
    /// RowsSettled, and confirmed by the broker.
    pub confirmed: u64,
    /// Put aside, as policy says.
    pub parked: u64,
    /// Given up, as policy says: unroutable, or no messages.
    pub dropped: u64,
}

/// What the end of a backlog leads to.
pub(crate) enum Backfilled<R> {
    /// All confirmed; the slot exists, and streaming can go on from it on this connection.
    Done {
        /// The connection.
        connection: R,
        /// What became of the rows.
        rows: Backfill,
    },
    /// Asked to end before all was confirmed: the next start publishes the backlog again.
    CutShort,
}

/// Publishes the whole backlog, waits for its confirms, and makes the slot.
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
        connection = backlog.finish() => {
            Ok(Backfilled::Done { connection: connection?, rows })
        }
        () = shutdown.overdue() => Ok(Backfilled::CutShort),
    }
}

/// Publishes all rows and waits for their confirms, or for `shutdown`.
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
    // What came before it is confirmed first.
    let mut invalid = None;
    let mut deadline: Option<Instant> = None;
    loop {
        let reading = !all_read && (deadline.is_none() || purpose == Purpose::Slot);
        if !reading && delivery.unsettled() == 0 {
            break;
        }
        if deadline.is_some_and(|deadline| deadline <= now() || !delivery.can_settle() && !reading) {
            break;
        }
        let may_read = reading && delivery.has_room();
        // Priorities: (1) being asked to end; (2) the broker's answers, which make room; (3) rows; (4) the timer.
        tokio::select! {
            biased;
            requested = shutdown.requested(), if deadline.is_none() => deadline = Some(requested),
            settled = delivery.next() => settled?,
            row = rows.next(), if may_read => {
                // What has arrived already leaves as one batch.
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
