//! What somebody else may do to the slot.

use super::data_directory::Slot;
use crate::world::WorldState;

impl Slot {
    /// One that stands here, on disk as well.
    pub(super) fn at(lsn: u64) -> Self {
        Self { confirmed_flush: lsn, persisted: lsn, lost: false }
    }
}

impl WorldState {
    /// Drops the slot, whoever uses it. `false` when there is none, or none of which anything is written down: then the next
    /// one is the first one.
    pub(crate) fn drop_slot(&mut self) -> bool {
        if !self.has_recorded_slot() {
            return false;
        }
        self.end_stream();
        self.postgres.data.slot = None;
        self.postgres.data.gap.push("is gone");
        self.oracle.may_halt_for(&["is gone"]);
        true
    }

    /// Makes one of the same name where the WAL ends, which the making of it is part of (`LogStandbySnapshot`).
    pub(crate) fn make_slot_by_hand(&mut self) {
        let data = &mut self.postgres.data;
        if data.slot.is_some() {
            return;
        }
        data.wal_end += 100;
        let at = data.wal_end;
        data.slot = Some(Slot::at(at));
        data.gap.push("was dropped and created again");
        self.oracle.may_halt_for(&["was dropped and created again"]);
        self.note(|| format!("postgres: somebody makes the slot anew at {at}"));
    }

    /// The slot stays as it is, and skips what was written meanwhile.
    pub(crate) fn make_publication_anew(&mut self) {
        const CAUSE: &str = "removed from the publication and added again";
        if !self.has_recorded_slot() {
            return;
        }
        let data = &mut self.postgres.data;
        data.publication = None;
        data.publish();
        data.gap.push(CAUSE);
        self.oracle.may_halt_for(&[CAUSE]);
        self.note(|| "postgres: somebody makes the publication anew".to_owned());
    }

    /// The server removes WAL that the slot needs.
    pub(crate) fn lose_slot(&mut self) {
        if !self.has_recorded_slot() {
            return;
        }
        self.end_stream();
        if let Some(slot) = &mut self.postgres.data.slot {
            slot.lost = true;
        }
        self.postgres.data.gap.push("is lost");
        self.oracle.may_halt_for(&["is lost"]);
    }

    /// `outboxd teardown`, which refuses while the slot is in use, so that somebody ends the stream first. What is not
    /// published by then is for the next slot, if there is to be one.
    pub(crate) fn tear_down(&mut self) {
        if !self.has_recorded_slot() {
            return;
        }
        self.end_stream();
        let data = &mut self.postgres.data;
        data.slot = None;
        data.publication = None;
        data.gap.clear();
        data.tear_down_record();
        self.oracle.may_halt_for(&["was removed by `outboxd teardown`"]);
    }

    /// There is a slot, and whoever starts knows that there is to be one.
    fn has_recorded_slot(&self) -> bool {
        let data = &self.postgres.data;
        data.slot.is_some() && data.has_recorded_slot()
    }

    /// A crash sets the slot back to what is on disk. What its record has beyond is repeated by nobody all the same.
    pub(crate) fn slot_forgets(&mut self) {
        self.oracle.slot_forgot();
        let settled = self.postgres.data.settled_for_good();
        if let (Some(slot), Some(settled)) = (&mut self.postgres.data.slot, settled) {
            slot.confirmed_flush = slot.persisted;
            self.oracle.settled_for_good(&self.postgres.data, settled);
        }
    }

    fn end_stream(&mut self) {
        if let Some(active) = self.postgres.active {
            self.end_session(active);
        }
        // What it had confirmed will be published again.
        self.oracle.slot_forgot();
    }

    /// A new slot begins behind the rows that are missing, so nobody but `outboxd recover` may make one.
    pub(super) fn slot_is_made_by(&mut self, process: u64) {
        let gap = self.postgres.data.gap.join(", ");
        if !gap.is_empty() && !self.oracle.recovering.contains(&process) {
            self.oracle.violated(format!("process {process} makes a slot silently, the one before {gap}"));
        }
    }
}
