//! What an attempt writes into the slot's record: that the slot is its own, and where it has left it.

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

/// How long the last word to the slot's record may take. It is not needed for safety: without it a slot that is made anew
/// while nobody looks cannot be told from the old one.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes down that the slot is ours, before it is moved; not before looking once more whether it is the right one,
/// as a standby may have waited for days. `made`: the slot is new. Says whether every row before it was published.
///
/// # Errors
/// [`Fault::Gap`]; [`Fault::SlotTaken`] when another instance has the slot by now; or what the server says.
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
    // What may not be relied on is not written anew: then it could be.
    let confirmed = stream.confirmed_flush.max(history.settled());
    // Of a table that was renamed a moment ago what was known stays true.
    let published_by = history.publishing.by().or(before.and_then(|record| record.published_by));
    let mut unproven = unproven(before, made, published_by);
    // What is not there need not be accounted for.
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
    // Ours already, by an earlier attempt: nothing new, and no WAL for it.
    let ours = before.is_some_and(|before| {
        let SlotRecord { holder, published_by, unproven, .. } = &record;
        (&before.holder, before.timeline) == (holder, timeline)
            && (&before.published_by, &before.unproven) == (published_by, unproven)
    });
    // Before it is written, for a connection that is lost then does not tell whether it was.
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
                cure: format!("when you have seen to such rows, say so with {word}; and restart outboxd"),
            }
        }
    })
}

/// Looks, if there is need to, whether another instance has had the slot since an attempt left messages unconfirmed.
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
    // Who cannot look knows of no successor.
    if let Ok(Ok(())) = tokio::time::timeout(RELEASE_TIMEOUT, look).await
        && history.judge(carryover.slot.as_ref()).is_ok()
    {
        carryover.leave_to_successor(history.record.as_ref());
    }
}

/// Writes down where exactly the slot was left.
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
    tracing::warn!(source = name, "the slot's record does not say that the slot was left in order: {failed}");
}

/// Why the table may hold rows that were never published although the slot is right.
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
                "the table had rows when a slot was found that outboxd had not made, and they may be older than it"
            }
        },
    };
    Some(why.to_owned())
}
