//! Changes of the slot by others.

use super::data_directory::Slot;
use crate::world::WorldState;

impl Slot {
    /// A slot at this position, on disk as well.
    pub(super) fn at(lsn: u64) -> Self {
        Self { confirmed_flush: lsn, persisted: lsn, lost: false }
    }
}

impl WorldState {
    /// Drops the slot, even if it is in use. Returns `false` if there is none, or none that has a record: then the next one is the
    /// first.
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

    /// Creates a slot of the same name at the end of WAL. Its creation makes WAL itself (`LogStandbySnapshot`).
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

    /// Creates the publication again. The slot stays and skips what was written meanwhile.
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

    /// Removes WAL that the slot needs.
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

    /// `outboxd teardown`. It refuses while the slot is in use, so the stream is ended first. Rows that are not published by then
    /// are left for the next slot, if there is one.
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

    /// Returns whether there is a slot with a record, so that a process expects one.
    fn has_recorded_slot(&self) -> bool {
        let data = &self.postgres.data;
        data.slot.is_some() && data.has_recorded_slot()
    }

    /// Sets the slot back to its state on disk, as a crash does. No process repeats what its record has beyond that.
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
        // Confirmed messages after this position are published again.
        self.oracle.slot_forgot();
    }

    /// A new slot begins after the missing rows. Only `outboxd recover` may create one.
    pub(super) fn slot_is_made_by(&mut self, process: u64) {
        let gap = self.postgres.data.gap.join(", ");
        if !gap.is_empty() && !self.oracle.recovering.contains(&process) {
            self.oracle.violated(format!("process {process} makes a slot silently, the one before {gap}"));
        }
    }
}
