//! A copy of the server that takes its place.

use std::time::Duration;

use outboxd::slot::record::SlotRecord;

use super::{
    Run,
    process::{INVALID_ROW, Process},
};
use crate::postgres::DataDirectory;

impl Run {
    /// A copy of the server takes its place. If it has the same identity, nothing is written before every process has met
    /// it: once its WAL has grown beyond what was confirmed it cannot be told from the one before.
    pub(crate) async fn put_back(&mut self, changed: impl FnOnce(&mut DataDirectory)) {
        let Some(data) = self.copies.pop_back() else { return };
        let recognisable = self.replace(data, changed);
        // Another identity is seen however much is written meanwhile.
        if recognisable {
            for _ in 0..self.world.look(|state| state.rng.u8(0..20)) {
                self.write();
            }
        }
        for _ in 0..3_000 {
            let unmet = |process: &Process| {
                self.world.look(|state| {
                    !state.postgres.judged.contains(&process.id) && state.oracle.has_streamed(process.id)
                })
            };
            let Some(one) = self.processes.iter().position(unmet) else { return };
            // An instance that halted at an invalid row waits for somebody to start it again.
            let id = self.processes[one].id;
            self.start_again_where(|process| process.id == id && process.is_halted(INVALID_ROW)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.world.look(|state| {
            state.oracle.violated("a process never met the server that was put back".to_owned())
        });
    }

    /// Puts a copy in the server's place, and says whether it can be told from the server by its identity.
    fn replace(&mut self, mut data: DataDirectory, changed: impl FnOnce(&mut DataDirectory)) -> bool {
        self.copies.clear();
        // What they write would hide that the server was set back.
        self.kill_commands();
        self.world.change(|state| {
            // Identities are never used twice.
            data.system_id = state.postgres.data.system_id;
            data.timeline = state.postgres.data.timeline;
            changed(&mut data);
            let identity = |data: &DataDirectory| (data.system_id, data.timeline);
            let before = identity(&state.postgres.data);
            state.oracle.may_halt_for(&data.gap);
            state.oracle.may_halt_for(&["set back to an older state"]);
            // To whoever is at claiming the slot just then, and takes the server for the one that it has met.
            if data.slot.is_none() {
                state.oracle.may_halt_for(&["is gone"]);
            }
            // To this server there never was one: who remembers nothing makes the first, and to who remembers it is another.
            if data.slot.is_none() && !data.has_recorded_slot() {
                state.oracle.may_halt_for(&["was dropped and created again"]);
            }
            // Made before a teardown, which the copy knows nothing of.
            if data.publishes_otherwise_than(&state.postgres.data) {
                state.oracle.may_halt_for(&["the publication was dropped and created again"]);
            }
            // Who was told of that by the server before looks for a better reason at this one.
            if state.postgres.data.is_unpublished() {
                state.oracle.may_halt_for(&["the publication does not exist"]);
            }
            if data.system_id != state.postgres.data.system_id {
                state.oracle.may_halt_for(&["was on another server"]);
            }
            if data.timeline != state.postgres.data.timeline {
                // The latter when a process remembers a timeline that the copy never was on.
                let causes = ["the slot is not on the new timeline", "was dropped and created again"];
                state.oracle.may_halt_for(&causes);
            }
            state.replace_data(data);
            identity(&state.postgres.data) != before
        })
    }

    /// Somebody stops outboxd, puts an older copy of the server back (the snapshot of a disk), and loads a dump over it that is
    /// newer: the slot is the old one, and its record speaks of positions which other rows have by now. The rest of the dump does
    /// not matter.
    pub(crate) async fn restore_with_newer_record(&mut self) {
        let record = self.world.look(|state| {
            let data = &state.postgres.data;
            let fine = data.gap.is_empty() && data.has_recorded_slot() && !data.has_marked_gap();
            data.record.clone().filter(|_| fine)
        });
        let copy = self.copies.pop_back().filter(|copy| copy.gap.is_empty() && copy.has_recorded_slot());
        let (Some(record), Some(copy)) = (record, copy) else { return };
        let instances = self.processes.len();
        for _ in 0..instances {
            self.kill().await;
        }
        let settled = record.confirmed_flush.0;
        self.replace(copy, |data| data.record = Some(SlotRecord { as_written: false, ..record }));
        for _ in 0..50 {
            if self.world.look(|state| state.postgres.data.wal_end > settled) {
                break;
            }
            self.write();
        }
        for _ in 0..instances {
            self.start();
        }
    }

    /// Ends such instances, and starts others.
    pub(super) async fn start_again_where(&mut self, such: impl Fn(&Process) -> bool) {
        while let Some(one) = self.processes.iter().position(&such) {
            let process = self.processes.remove(one);
            self.terminate(process, Duration::from_secs(1)).await;
            self.start();
        }
    }
}
