//! The loop before the stream: rows that were there before the slot.
//!
//! A backlog leaves no mark until all of it is confirmed; only then does the permanent slot appear, at the position of
//! the snapshot the rows came from. A crash in between starts over: duplicates, never a gap.

use std::time::Instant;

use futures_util::FutureExt;

use super::{
    Fault, OnInvalid, RelayOptions, Shutdown,
    broker::Publisher,
    clock::now,
    database::Backlog,
    delivery::{Delivery, sleep_until},
};
use crate::{
    admin::{Reporter, SourceState},
    outbox::Mapping,
};

/// What the end of the backlog leads to.
pub(super) enum Backfilled<R> {
    /// All confirmed; the slot exists, and streaming goes on from it on this connection.
    Done(R),
    /// Asked to end before all was confirmed: the next start publishes the backlog again.
    CutShort,
}

/// Publishes the whole backlog and waits for its confirms. A `shutdown` does not cut it short before its deadline, as
/// a backlog that is finished need not be repeated.
pub(super) async fn publish_backlog<B: Backlog>(
    mut backlog: B,
    delivery: &mut Delivery<'_, impl Publisher>,
    mapping: &Mapping,
    options: &RelayOptions,
    report: &Reporter,
    shutdown: &mut Shutdown,
) -> Result<Backfilled<B::Replication>, Fault> {
    delivery.enter(SourceState::Backlog);
    let mapper = mapping.resolve(backlog.columns()).map_err(Fault::Mapping)?;
    tracing::info!(source = report.name(), order = %backlog.order(), "publishing the rows that are older than the slot");
    let (mut rows, mut all_read) = (0_u64, false);
    // What came before it is confirmed first.
    let mut invalid = None;
    let mut deadline: Option<Instant> = None;
    loop {
        if all_read && delivery.ledger().is_empty() {
            break;
        }
        if deadline.is_some_and(|deadline| deadline <= now() || !delivery.can_settle() && all_read) {
            return Ok(Backfilled::CutShort);
        }
        let may_read = !all_read && delivery.has_room();
        tokio::select! {
            biased;
            requested = shutdown.requested(), if deadline.is_none() => deadline = Some(requested),
            settled = delivery.next() => settled?,
            row = backlog.next(), if may_read => {
                // What has arrived already leaves as one batch.
                let mut next = Some(row);
                while let Some(row) = next.take() {
                    let Some(row) = row? else {
                        all_read = true;
                        break;
                    };
                    match mapper.message(row) {
                        Ok(message) => delivery.push(message),
                        Err(row) => match options.on_invalid {
                            OnInvalid::Halt => {
                                invalid = Some(row);
                                all_read = true;
                                break;
                            }
                        },
                    }
                    rows += 1;
                    if delivery.has_room() {
                        next = backlog.next().now_or_never();
                    }
                }
            }
            () = sleep_until(deadline) => {}
        }
    }
    if let Some(row) = invalid {
        return Err(Fault::InvalidRow(row));
    }
    tracing::info!(source = report.name(), rows, "the backlog is confirmed");
    tokio::select! {
        biased;
        connection = backlog.finish() => Ok(Backfilled::Done(connection?)),
        () = shutdown.overdue() => Ok(Backfilled::CutShort),
    }
}
