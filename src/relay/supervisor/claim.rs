//! Writes of an attempt to the slot's record: that this instance holds the slot, and the position where it left it.

use std::time::Duration;

use super::{carryover::Carryover, gap::judge, streaming::Made};
use crate::{
    cleanup::task::Coverage,
    ledger::Progress,
    position::Lsn,
    postgres::outbox_table::TableKind,
    relay::{
        Fault, Source,
        database::{Database, Sql},
    },
    slot::{
        continuity::{LastSeen, SlotHistory},
        publication::PublishedBy,
        record::{self, Confirmed, LEFT_OUT, SlotRecord},
    },
};
use pg_replication::BeforeStream;

/// Longest duration of the last write to the slot's record. The write is not needed for safety: without it, a slot that is dropped
/// and created again while no instance runs cannot be told from the old one.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes this instance's name into the record before the slot moves. First checks again whether it is the right slot, because a
/// standby may have waited for days. `made`: set if the slot is new. Returns whether every earlier row was published.
///
/// # Errors
///
/// [`Fault::Gap`]; [`Fault::SlotTaken`] if another instance has the slot by now; or a fault of the server.
pub(super) async fn claim<D: Database, B>(
    source: &Source<D, B>,
    carryover: &mut Carryover,
    history: &mut SlotHistory,
    stream: BeforeStream,
    made: Option<Made>,
    kind: TableKind,
) -> Result<Coverage, Fault> {
    let database = &source.database;
    let sql = database.connect_sql(&source.application_name()).await?;
    database.look_again(&sql, history).await?;
    judge(source, &sql, history, carryover.slot.as_ref()).await?;
    let before = history.record.as_ref();
    let seen = carryover.slot.as_ref().map_or(0, |slot| slot.version);
    let (system_id, timeline) = history.server.clone().names();
    // A position that cannot be trusted is not written again, because the record would make it trusted.
    let confirmed = stream.confirmed_flush.max(history.settled());
    // A table that was renamed a moment ago keeps its known entry.
    let published_by = history.publishing.by().or(before.and_then(|record| record.published_by));
    let mut unproven = unproven(before, made, published_by);
    // An empty table has no unproven rows.
    if unproven.is_some() && sql.table_is_empty(&database.options().table, kind).await? {
        unproven = None;
    }
    let record = SlotRecord {
        system_id: system_id.clone(),
        timeline,
        confirmed_flush: confirmed.unwrap_or(Lsn::ZERO),
        confirmed_until: made.map(|made| made.at).or(before.and_then(|record| record.confirmed_until)),
        holder: Some(carryover.holder.clone()),
        gap: None,
        published_by,
        unproven,
        version: before.map_or(0, |record| record.version).max(seen) + 1,
        as_written: true,
    };
    // An earlier attempt of this process wrote the same record: no write, and no WAL for it.
    let ours = before.is_some_and(|before| {
        let SlotRecord { holder, published_by, unproven, .. } = &record;
        (&before.holder, before.timeline) == (holder, timeline)
            && (&before.published_by, &before.unproven) == (published_by, unproven)
    });
    // Remembered before the write, because a connection that is lost during it does not tell whether it happened.
    let holder = carryover.holder.clone();
    let memory = carryover.slot.insert(LastSeen {
        holder,
        system_id,
        timeline,
        confirmed,
        published_by,
        version: seen,
    });
    if !ours {
        if !sql.claim_record(database.options(), &record, stream.pid).await? {
            return Err(Fault::SlotTaken { slot: database.options().slot.clone() });
        }
        memory.version = record.version;
    }
    Ok(match (record.unproven, published_by) {
        (None, Some(published_by)) => Coverage::Complete(published_by),
        (why, _) => {
            let word = record::declare_published_sql(database.options());
            Coverage::Unproven {
                why: why.unwrap_or_else(|| "the table cannot be found under its name".into()),
                cure: format!("publish or remove such rows, record that with {word}; and restart outboxd"),
            }
        }
    })
}

/// Checks whether another instance has had the slot since an attempt left messages unconfirmed.
pub(super) async fn look_for_a_successor<D: Database, B>(
    source: &Source<D, B>,
    carryover: &mut Carryover,
    history: &mut SlotHistory,
) {
    if !carryover.unconfirmed {
        return;
    }
    let database = &source.database;
    let look = async {
        let sql = database.connect_sql(&source.application_name()).await?;
        Ok::<_, Fault>(database.look_again(&sql, history).await?)
    };
    // If the look fails, no successor is assumed.
    if let Ok(Ok(())) = tokio::time::timeout(RELEASE_TIMEOUT, look).await
        && history.judge(carryover.slot.as_ref()).is_ok()
    {
        carryover.leave_to_successor(history.record.as_ref());
    }
}

/// Writes the exact position where the slot was left.
pub(super) async fn release<D: Database, B>(source: &Source<D, B>, carryover: &Carryover) {
    let Source { name, database, .. } = source;
    let Progress { confirmed: Some(confirmed), position, committed_at, .. } = carryover.settled.progress
    else {
        return;
    };
    let last = Confirmed { flush: confirmed.lsn(), position, until: committed_at };
    let release = async {
        let sql = database.connect_sql(&source.application_name()).await?;
        Ok::<_, Fault>(sql.release_record(database.options(), &carryover.holder, last).await?)
    };
    let failed = match tokio::time::timeout(RELEASE_TIMEOUT, release).await {
        Ok(Ok(())) => return,
        Ok(Err(fault)) => fault.explain(),
        Err(_) => format!("no answer within {} s", RELEASE_TIMEOUT.as_secs()),
    };
    tracing::warn!(
        source = name,
        "the slot's last position could not be written to outboxd_state: {failed}. No message is lost; but if somebody drops and creates the \
         slot while no instance runs, the next start may not notice"
    );
}

/// Returns the reason why the table may hold rows that were never published, although the slot is right.
fn unproven(
    before: Option<&SlotRecord>,
    made: Option<Made>,
    published_by: Option<PublishedBy>,
) -> Option<String> {
    let why = match before.filter(|record| !record.is_torn_down()) {
        Some(SlotRecord { unproven: Some(why), .. }) => return Some(why.clone()),
        Some(SlotRecord { published_by: Some(before), .. }) if Some(*before) != published_by => {
            "the publication was altered, and may have published no inserts for a time"
        }
        Some(_) => return None,
        None => match made {
            Some(Made { after_backlog: true, .. }) => return None,
            Some(_) => LEFT_OUT,
            None => {
                "outboxd found a slot that it had not created, and the table had rows, which may be older than the slot"
            }
        },
    };
    Some(why.to_owned())
}
