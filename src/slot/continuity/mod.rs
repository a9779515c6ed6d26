//! The verdict whether a slot is still the same slot as before. A pure function of the record, of this process's memory, and of the
//! server's answers.
//!
//! PostgreSQL identifies a slot by its name only, so its position has to tell an old slot from a new one. A slot moves no further
//! than its consumer confirms, and a new slot begins after all WAL that existed when it was created. So a slot beyond everything
//! that was ever confirmed is a new one, or somebody moved it. The process that confirmed knows the exact bound; after a clean
//! release the record has it.
//!
//! After a promotion the branch point of the timeline decides: a slot copied from the primary stands before it, a new one after it.
//!
//! The same slot may still have skipped rows: those written while the publication did not contain the table. So the publication
//! entry must be the same, too.
//!
//! One case is not detected: the holder died without a release, and the slot was dropped and created again before the next
//! instance acquired it. See docs/internals/decisions.
//!
//! A crash of the server may set the same slot back. The record then has its confirmed position.

mod gap;

pub use gap::{Cause, Gap};

use super::{
    facts::SlotFacts,
    publication::{PublishedBy, Publishing},
    record::SlotRecord,
};
use crate::position::Lsn;
use pg_replication::SystemIdentity;

/// The present state of the slot, its record, its publication and the server.
#[derive(Clone, Debug)]
pub struct SlotHistory {
    /// The server. The end of its WAL is read after the record, because a record written meanwhile must not lie after that end.
    pub server: SystemIdentity,
    /// Earlier timelines of the server with their branch points. Empty if none is needed or known.
    pub timelines: Vec<(u32, Lsn)>,
    /// The record.
    pub record: Option<SlotRecord>,
    /// The slot, if it exists.
    pub slot: Option<SlotFacts>,
    /// Publication of the table's inserts.
    pub publishing: Publishing,
    /// Publication entry at the previous look of the same attempt.
    pub published_before: Option<PublishedBy>,
}

/// State of the slot when this process last saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastSeen {
    /// Name under which this process holds slots.
    pub holder: String,
    /// System identifier of the server.
    pub system_id: String,
    /// Timeline of the server.
    pub timeline: u32,
    /// Upper bound of the positions that this process has confirmed to the server; `None` if it never had the slot.
    pub confirmed: Option<Lsn>,
    /// Publication entry at the last look.
    pub published_by: Option<PublishedBy>,
    /// Version of the record at the last read or write.
    pub version: i64,
}

/// The verdict on a slot that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// No slot exists or ever existed: outboxd publishes the backlog and creates it.
    First,
    /// The slot has no record: it was created by hand, or by an earlier version.
    Adopted,
    /// The slot is the same as before.
    Same,
}

/// The slot as it was, from the newest knowledge of it.
struct Baseline<'a> {
    system_id: &'a str,
    timeline: u32,
    /// Lower bound of the confirmed position.
    confirmed: Option<Lsn>,
    /// Upper bound of the confirmed position.
    at_most: Option<Lsn>,
    /// Publication entry of the table.
    published_by: Option<PublishedBy>,
    /// The database has an older record than this process has seen, or none.
    outdated: bool,
}

impl SlotHistory {
    /// Judges the slot. A recorded gap stays a gap with its first position, whatever happens to the slot afterwards.
    ///
    /// # Errors
    /// The gap.
    pub fn judge(&self, last_seen: Option<&LastSeen>) -> Result<Continuity, Gap> {
        match &self.record {
            Some(SlotRecord { gap: Some(gap), confirmed_flush, confirmed_until, .. }) => Err(Gap {
                cause: Cause::Recorded(gap.clone()),
                confirmed: Some(*confirmed_flush).filter(|confirmed| *confirmed > Lsn::ZERO),
                until: *confirmed_until,
            }),
            _ => self.judge_present(last_seen),
        }
    }

    fn judge_present(&self, last_seen: Option<&LastSeen>) -> Result<Continuity, Gap> {
        let slot = self.slot.as_ref();
        let until = self.record.as_ref().and_then(|record| record.confirmed_until);
        let gap = |cause, confirmed| Err(Gap { cause, confirmed, until });
        let lost = slot.and_then(|slot| slot.lost.clone()).map(|why| Cause::Lost { why });
        let flush = slot.and_then(|slot| slot.confirmed_flush);

        let Some(baseline) = self.baseline(last_seen) else {
            return match (slot, lost) {
                (None, _) => Ok(Continuity::First),
                (Some(_), None) => match self.skipped_rows(None) {
                    None => Ok(Continuity::Adopted),
                    Some(cause) => gap(cause, flush),
                },
                (Some(_), Some(lost)) => gap(lost, flush),
            };
        };
        let server = &self.server;
        if server.system_id != baseline.system_id {
            let (had, has) = (baseline.system_id.to_owned(), server.system_id.clone());
            return gap(Cause::OtherSystem { had, has }, baseline.confirmed);
        }
        let promoted = server.timeline > baseline.timeline;
        let behind = baseline.confirmed.is_some_and(|confirmed| server.xlogpos < confirmed);
        if server.timeline < baseline.timeline || !promoted && (behind || baseline.outdated) {
            let only_unrecorded = self.record.is_none() && !behind && server.timeline == baseline.timeline;
            let set_back = Cause::SetBack { end: server.xlogpos };
            return gap(if only_unrecorded { Cause::Unrecorded } else { set_back }, baseline.confirmed);
        }
        let torn_down = self.record.as_ref().is_some_and(SlotRecord::is_torn_down);
        let Some(_) = slot else {
            let (had, has) = (baseline.timeline, server.timeline);
            let cause = match (torn_down, promoted) {
                (true, _) => Cause::TornDown,
                (false, true) => Cause::LeftBehind { had, has },
                (false, false) => Cause::Gone,
            };
            return gap(cause, baseline.confirmed);
        };
        if let Some(lost) = lost {
            return gap(lost, flush.max(baseline.confirmed));
        }
        // The slot was created after the teardown, on purpose.
        if torn_down {
            return match self.skipped_rows(None) {
                None => Ok(Continuity::Adopted),
                Some(cause) => gap(cause, flush),
            };
        }
        // A slot created again before the promotion is copied to the standby, too.
        let left = promoted.then(|| self.left(baseline.timeline));
        let at_most = baseline.at_most.into_iter().chain(left).min();
        if at_most.is_some_and(|at_most| flush > Some(at_most)) {
            return gap(Cause::MadeAnew { at: flush }, baseline.confirmed);
        }
        match self.skipped_rows(baseline.published_by) {
            None => Ok(Continuity::Same),
            Some(cause) => gap(cause, baseline.confirmed.or(flush)),
        }
    }

    /// The cause for which an intact slot may have skipped rows: the table is not published now, or by another entry than before.
    /// A missing table is reported elsewhere.
    fn skipped_rows(&self, recorded: Option<PublishedBy>) -> Option<Cause> {
        let now = match self.publishing {
            Publishing::By(now) => now,
            Publishing::Not(why) => return Some(Cause::Unpublished(why)),
            Publishing::NoTable => return None,
        };
        // The record goes before what was seen earlier: another instance may have recovered meanwhile.
        let before = recorded.or(self.published_before);
        before.is_some_and(|before| before.entry != now.entry).then_some(Cause::PublishedAnew)
    }

    /// The record's confirmed position, if it is reliable: the slot had it in this server's history, and at most a crash set the
    /// slot back since. Only for a slot that [`judge`](Self::judge) has accepted.
    ///
    /// A record of another system or timeline belongs to another history, in which other rows may have had these positions. So
    /// does a record that was not written on this server, such as one from a newer dump. After a gap or a teardown no position is
    /// reliable.
    pub fn settled(&self) -> Option<Lsn> {
        let record = self.record.as_ref().filter(|record| record.as_written && record.gap.is_none())?;
        let here = (record.system_id.as_str(), record.timeline)
            == (self.server.system_id.as_str(), self.server.timeline);
        let settled = record.confirmed_flush;
        (here && self.slot.is_some() && !record.is_torn_down() && settled <= self.server.xlogpos)
            .then_some(settled)
    }

    /// The newest knowledge of the slot: this process's memory as long as no other instance has written the record, otherwise the
    /// record. The record of a torn-down slot is empty, so only a process that was running then knows that slot.
    fn baseline<'a>(&'a self, last_seen: Option<&'a LastSeen>) -> Option<Baseline<'a>> {
        let record = self.record.as_ref();
        let outdated = |last_seen: &LastSeen| record.map_or(0, |record| record.version) < last_seen.version;
        let ours = |last_seen: &LastSeen| {
            record.is_none_or(|record| {
                record.holder.as_deref() == Some(last_seen.holder.as_str()) || record.is_torn_down()
            })
        };
        // A replica that was behind was promoted: its record belongs to its slot. What this process saw later never happened there.
        let superseded = |last_seen: &LastSeen| {
            self.server.timeline > last_seen.timeline
                && outdated(last_seen)
                && record.is_some_and(|record| !record.is_torn_down())
        };
        let counts =
            |last_seen: &&LastSeen| (ours(last_seen) || outdated(last_seen)) && !superseded(last_seen);
        if let Some(last_seen) = last_seen.filter(counts) {
            let LastSeen { system_id, timeline, confirmed, published_by, .. } = last_seen;
            // The record may be ahead of the memory: it is written when the slot is acquired, perhaps just before a fault.
            let confirmed = (*confirmed).max(record.map(|record| record.confirmed_flush));
            return Some(Baseline {
                system_id,
                timeline: *timeline,
                confirmed,
                at_most: confirmed,
                published_by: *published_by,
                outdated: outdated(last_seen),
            });
        }
        record.filter(|record| !record.is_torn_down()).map(|record| {
            let confirmed = Some(record.confirmed_flush);
            let at_most = confirmed.filter(|_| record.holder.is_none());
            Baseline {
                system_id: &record.system_id,
                timeline: record.timeline,
                confirmed,
                at_most,
                published_by: record.published_by,
                outdated: false,
            }
        })
    }

    /// Tells whether the record says that `holder` has the slot.
    pub(crate) fn is_held_by(&self, holder: &str) -> bool {
        self.record.as_ref().is_some_and(|record| record.holder.as_deref() == Some(holder))
    }

    /// Branch point at which the server left a timeline; zero if it was never on it, as no slot stands before zero.
    fn left(&self, timeline: u32) -> Lsn {
        self.timelines.iter().find(|(earlier, _)| *earlier == timeline).map_or(Lsn::ZERO, |(_, left)| *left)
    }
}

impl SlotHistory {
    /// The record with the gap, to be written so that other instances find it too. `None` if the record has a gap already, or if the
    /// gap concerns this process only.
    pub(crate) fn to_be_marked(&self, gap: &Gap, last_seen: Option<&LastSeen>) -> Option<SlotRecord> {
        let is_marked = self.record.as_ref().is_some_and(|record| record.gap.is_some());
        (!is_marked && gap.cause != Cause::TornDown).then(|| self.marked(gap, last_seen))
    }

    /// Tells whether the slot is a failover slot, or was one when its gap was recorded.
    pub(crate) fn is_of_failover_slot(&self) -> bool {
        let recorded = self.record.as_ref().and_then(|record| record.gap.as_deref());
        self.slot.as_ref().is_some_and(|slot| slot.failover) || recorded.is_some_and(gap::was_failover)
    }

    /// The record with the gap in place of what it has now.
    pub fn marked(&self, gap: &Gap, last_seen: Option<&LastSeen>) -> SlotRecord {
        let record = self.record.as_ref();
        let seen = last_seen.map(|last_seen| last_seen.version).max(record.map(|record| record.version));
        let (system_id, timeline) = match record {
            Some(record) => (record.system_id.clone(), record.timeline),
            None => self.server.clone().names(),
        };
        SlotRecord {
            system_id,
            timeline,
            confirmed_flush: gap
                .confirmed
                .or(record.map(|record| record.confirmed_flush))
                .unwrap_or(Lsn::ZERO),
            confirmed_until: record.and_then(|record| record.confirmed_until),
            holder: None,
            gap: Some(gap::recorded(&gap.cause, self.slot.as_ref())),
            published_by: record.and_then(|record| record.published_by),
            unproven: record.and_then(|record| record.unproven.clone()),
            version: seen.unwrap_or(0) + 1,
            as_written: true,
        }
    }
}

#[cfg(test)]
mod tests;
