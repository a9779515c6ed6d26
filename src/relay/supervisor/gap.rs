//! Gaps: a slot behind which rows may be missing is detected and recorded.

use std::time::Duration;

use super::streaming::Streaming;
use crate::{
    relay::{
        Fault, Source,
        database::{Database, Sql, Stream},
        pipeline::StreamOf,
    },
    slot::continuity::{Cause, Gap, LastSeen, SlotHistory},
};

/// Longest search for the reason why the slot is gone. The next attempt finds the reason, too, but knows the start of a gap less
/// exactly.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks whether the slot may be used. A gap is recorded, because its only proof may be this process's memory.
///
/// # Errors
///
/// [`Fault::Gap`].
pub(super) async fn judge<D: Database, B>(
    source: &Source<D, B>,
    sql: &D::Sql,
    history: &SlotHistory,
    remembered: Option<&LastSeen>,
) -> Result<(), Fault> {
    let gap = match history.judge(remembered) {
        Ok(_) => return Ok(()),
        Err(gap) => gap,
    };
    mark(source, sql, history, &gap, remembered).await;
    Err(Fault::gap(&source.database.options().slot, &source.name, gap))
}

/// Records a gap. A failure is logged only.
async fn mark<D: Database, B>(
    source: &Source<D, B>,
    sql: &D::Sql,
    history: &SlotHistory,
    gap: &Gap,
    remembered: Option<&LastSeen>,
) {
    if let Some(marked) = history.to_be_marked(gap, remembered) {
        let found = history.record.as_ref().map(|record| record.version);
        if let Err(error) = sql.mark_record(source.database.options(), found, &marked).await {
            let error = Fault::from(error).explain();
            tracing::warn!(
                source = source.name,
                "the gap could not be recorded in outboxd_state, so do not restart outboxd before you have run `outboxd recover`: {error}"
            );
        }
    }
}

/// Returns the fault of a slot that was no longer ours at the claim. Up to version 17 the server may have refused to send what is
/// older than the publication, which the stream reports: then there is a gap after everything confirmed.
pub(super) async fn refused_before_claim<D: Database, B>(
    source: &Source<D, B>,
    lost: Fault,
    Streaming { mut stream, before }: Streaming<StreamOf<D>>,
    history: &mut SlotHistory,
    remembered: Option<&LastSeen>,
) -> Fault {
    let end = async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    };
    match tokio::time::timeout(LOOK_TIMEOUT, end).await {
        Ok(error) if source.database.options().is_unpublished(&error) => {
            let found = Gap { cause: Cause::PublishedAnew, confirmed: before.confirmed_flush, until: None };
            look_closer(source, found, history, remembered, None).await
        }
        _ => lost,
    }
}

/// Records that the stream of a claimed slot has skipped rows, from where `found` says. Returns the fault to end with.
pub(super) async fn skips_rows<D: Database, B>(
    source: &Source<D, B>,
    found: Gap,
    history: &mut SlotHistory,
    remembered: Option<&LastSeen>,
) -> Fault {
    let holder = remembered.map(|slot| slot.holder.as_str());
    look_closer(source, found, history, remembered, holder).await
}

/// Records a gap. A slot that is gone or torn down is itself the reason, and not the publication that went with it. If the record
/// names another holder than `holder`, that holder's slot is fine. If the look fails, the next attempt finds all this, with a less
/// exact start of the gap.
async fn look_closer<D: Database, B>(
    source: &Source<D, B>,
    found: Gap,
    history: &mut SlotHistory,
    remembered: Option<&LastSeen>,
    holder: Option<&str>,
) -> Fault {
    let Source { name, database, .. } = source;
    let look = async {
        let sql = database.connect_sql(&source.application_name()).await?;
        database.look_again(&sql, history).await?;
        let found =
            Gap { confirmed: found.confirmed.or(remembered.and_then(|slot| slot.confirmed)), ..found };
        let gap = match history.judge(remembered) {
            Err(judged) if !judged.cause.is_of_the_publication() => judged,
            _ if holder.is_some_and(|holder| !history.is_held_by(holder)) => {
                return Ok(Fault::SlotTaken { slot: database.options().slot.clone() });
            }
            Err(judged) => Gap { cause: judged.cause, ..found },
            Ok(_) => found,
        };
        mark(source, &sql, history, &gap, remembered).await;
        Ok::<_, Fault>(Fault::gap(&database.options().slot, name, gap))
    };
    match tokio::time::timeout(LOOK_TIMEOUT, look).await {
        Ok(Ok(fault) | Err(fault)) => fault,
        Err(_) => Fault::ConnectTimeout { after: LOOK_TIMEOUT },
    }
}
