//! The judgement whether a slot is the one that was there before: a pure function from what is recorded, what is remembered and what
//! the server says to a verdict.
//!
//! PostgreSQL gives a slot no identity but its name. What tells an old slot from a new one of the same name is where it
//! stands. A slot moves only as far as its consumer confirms, so one that stands beyond everything that was ever confirmed
//! is another one, or somebody moved it: a new slot begins behind all WAL that existed when it was made. How far was
//! confirmed is known exactly to the process that did it, and to everybody after a release in good order.
//!
//! On a new timeline the promotion tells: a slot that came along with the replica stands before the place where the old
//! timeline was left, one that was made afterwards stands behind it.
//!
//! A slot may stay the same and yet skip rows: those that were written while the publication did not hold the table. By
//! what the table is published is therefore part of what must be as it was.
//!
//! One case is not told apart: a slot that was made anew before the next instance took it, when its holder did not release it.
//! See ARCHITECTURE.md.
//!
//! The slot that is the same may have been set back by a crash of its server. Then the record knows how far it had come.

mod gap;

pub use gap::{Cause, Gap};

use super::{
    facts::SlotFacts,
    publication::{PublishedBy, Publishing},
    record::SlotRecord,
};
use crate::position::Lsn;
use pg_replication::SystemIdentity;

/// The slot, its record, its publication and the server, as the database and the server describe them now.
#[derive(Clone, Debug)]
pub struct SlotHistory {
    /// The server. Its end of WAL is read after the record: one that was written meanwhile must not look like one from
    /// the future.
    pub server: SystemIdentity,
    /// Earlier timelines of the server with the places where they were left. May be empty when nothing is known of any.
    pub timelines: Vec<(u32, Lsn)>,
    /// The record.
    pub record: Option<SlotRecord>,
    /// The slot that is there.
    pub slot: Option<SlotFacts>,
    /// Whether the table's inserts get into the stream.
    pub publishing: Publishing,
    /// By what they did at the last look before this one.
    pub published_before: Option<PublishedBy>,
}

/// State of the slot when this process last saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastSeen {
    /// The name under which this process holds slots.
    pub holder: String,
    /// The server that it has seen the slot on.
    pub system_id: String,
    /// That server's timeline.
    pub timeline: u32,
    /// The most that this process can have told the server to be confirmed; `None` when it never had the slot.
    pub confirmed: Option<Lsn>,
    /// By what the table was published when it last looked.
    pub published_by: Option<PublishedBy>,
    /// The version of the record that it has last seen or written.
    pub version: i64,
}

/// The verdict on a slot that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// There is none and there never was: it is to be made, after the backlog.
    First,
    /// There is one of which nothing is written down: it was made by hand, or by an earlier version.
    Adopted,
    /// It is the one that was there before.
    Same,
}

/// The slot as it was, by the newest source.
struct Baseline<'a> {
    system_id: &'a str,
    timeline: u32,
    /// At least so far it is confirmed.
    confirmed: Option<Lsn>,
    /// No further has it been confirmed.
    at_most: Option<Lsn>,
    /// By what the table was published.
    published_by: Option<PublishedBy>,
    /// The database holds an older record than this process knows, or none.
    outdated: bool,
}

impl SlotHistory {
    /// The verdict. A gap is never closed by going on, nor by time: one that was recorded stays one, and whatever happened to
    /// the slot since does not hide where it began.
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
        // It was made after the teardown, by somebody who wants it.
        if torn_down {
            return match self.skipped_rows(None) {
                None => Ok(Continuity::Adopted),
                Some(cause) => gap(cause, flush),
            };
        }
        // One that was made anew before the promotion came along, too.
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

    /// The cause for which the slot, right as it is, may have skipped rows: they are not published now, or not by what they were. A table
    /// that is not there under its name skips nothing, and is missed elsewhere.
    fn skipped_rows(&self, recorded: Option<PublishedBy>) -> Option<Cause> {
        let now = match self.publishing {
            Publishing::By(now) => now,
            Publishing::Not(why) => return Some(Cause::Unpublished(why)),
            Publishing::NoTable => return None,
        };
        // What was seen earlier says nothing against what is written down: another may have recovered meanwhile.
        let before = recorded.or(self.published_before);
        before.is_some_and(|before| before.entry != now.entry).then_some(Cause::PublishedAnew)
    }

    /// Position to which the record has the slot confirmed, where that can be relied on: the slot itself said so once, in the
    /// history that this server has, and at most a crash has made it forget. Only for a slot that was [judged](Self::judge)
    /// to be right.
    ///
    /// A record of another system or timeline speaks of another history, in which other rows may have had these positions. So
    /// may one that was not written on this server but brought here, by a dump that is newer than the server's state. A gap
    /// and a teardown leave nothing to rely on.
    pub fn settled(&self) -> Option<Lsn> {
        let record = self.record.as_ref().filter(|record| record.as_written && record.gap.is_none())?;
        let here = (record.system_id.as_str(), record.timeline)
            == (self.server.system_id.as_str(), self.server.timeline);
        let settled = record.confirmed_flush;
        (here && self.slot.is_some() && !record.is_torn_down() && settled <= self.server.xlogpos)
            .then_some(settled)
    }

    /// The slot as it was by the newest source: this process, as long as nobody has written to the record since; then the
    /// record. Of a slot that was torn down only a process that was left knows anything.
    fn baseline<'a>(&'a self, last_seen: Option<&'a LastSeen>) -> Option<Baseline<'a>> {
        let record = self.record.as_ref();
        let outdated = |last_seen: &LastSeen| record.map_or(0, |record| record.version) < last_seen.version;
        let ours = |last_seen: &LastSeen| {
            record.is_none_or(|record| {
                record.holder.as_deref() == Some(last_seen.holder.as_str()) || record.is_torn_down()
            })
        };
        // A replica that was behind was promoted: what it has written down goes with its slot, and what this process remembers
        // since has not happened there.
        let superseded = |last_seen: &LastSeen| {
            self.server.timeline > last_seen.timeline
                && outdated(last_seen)
                && record.is_some_and(|record| !record.is_torn_down())
        };
        let counts =
            |last_seen: &&LastSeen| (ours(last_seen) || outdated(last_seen)) && !superseded(last_seen);
        if let Some(last_seen) = last_seen.filter(counts) {
            let LastSeen { system_id, timeline, confirmed, published_by, .. } = last_seen;
            // The record may be ahead of what is remembered: written when the slot was acquired, just before a fault.
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

    /// The place where the server's history left a timeline; zero, which no slot can stand before, if it was never on it.
    fn left(&self, timeline: u32) -> Lsn {
        self.timelines.iter().find(|(earlier, _)| *earlier == timeline).map_or(Lsn::ZERO, |(_, left)| *left)
    }
}

impl SlotHistory {
    /// The record with a gap that has to be written down, so that whoever looks next finds it too; `None` when it is
    /// written down already, or nothing is missing to anybody else.
    pub(crate) fn to_be_marked(&self, gap: &Gap, last_seen: Option<&LastSeen>) -> Option<SlotRecord> {
        let is_marked = self.record.as_ref().is_some_and(|record| record.gap.is_some());
        (!is_marked && gap.cause != Cause::TornDown).then(|| self.marked(gap, last_seen))
    }

    /// Tells whether the slot is, or was when its gap was written down, a failover slot.
    pub(crate) fn is_of_failover_slot(&self) -> bool {
        let recorded = self.record.as_ref().and_then(|record| record.gap.as_deref());
        self.slot.as_ref().is_some_and(|slot| slot.failover) || recorded.is_some_and(gap::was_failover)
    }

    /// The record with a gap, whatever is written down.
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
