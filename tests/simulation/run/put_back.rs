//! Copies that replace the server.

use std::time::Duration;

use outboxd::slot::record::SlotRecord;

use super::{
    Run,
    process::{INVALID_ROW, Process},
};
use crate::postgres::data_directory::DataDirectory;

impl Run {
    /// Replaces the server by a copy. If the copy has the same identity, nothing is written until every process has met it: once
    /// its WAL has grown beyond the confirmed position, the copy cannot be told from the server before.
    pub(crate) async fn put_back(&mut self, changed: impl FnOnce(&mut DataDirectory)) {
        let Some(data) = self.copies.pop_back() else { return };
        let recognisable = self.replace(data, changed);
        // Another identity is noticed, however much is written meanwhile.
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
            // An instance that halted at an invalid row waits for a restart.
            let id = self.processes[one].id;
            self.start_again_where(|process| process.id == id && process.is_halted(INVALID_ROW)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.world.look(|state| {
            state.oracle.violated("a process never met the server that was put back".to_owned())
        });
    }

    /// Replaces the server by a copy. Returns whether the copy's identity differs.
    fn replace(&mut self, mut data: DataDirectory, changed: impl FnOnce(&mut DataDirectory)) -> bool {
        self.copies.clear();
        // Their writes would hide that the server was set back.
        self.kill_commands();
        self.world.change(|state| {
            // An identity is never used twice.
            data.system_id = state.postgres.data.system_id;
            data.timeline = state.postgres.data.timeline;
            changed(&mut data);
            let identity = |data: &DataDirectory| (data.system_id, data.timeline);
            let before = identity(&state.postgres.data);
            state.oracle.may_halt_for(&data.gap);
            state.oracle.may_halt_for(&["set back to an older state"]);
            // For a process that is about to claim the slot and takes this server for the one that it has met.
            if data.slot.is_none() {
                state.oracle.may_halt_for(&["is gone"]);
            }
            // To this server there never was a slot. A process without memory creates the first one; to a process with memory the
            // slot is another.
            if data.slot.is_none() && !data.has_recorded_slot() {
                state.oracle.may_halt_for(&["was dropped and created again"]);
            }
            // Created before a teardown that the copy does not know of.
            if data.publishes_otherwise_than(&state.postgres.data) {
                state.oracle.may_halt_for(&["the publication was dropped and created again"]);
            }
            // A process that was told so by the server before looks for a better reason on this one.
            if state.postgres.data.is_unpublished() {
                state.oracle.may_halt_for(&["the publication does not exist"]);
            }
            if data.system_id != state.postgres.data.system_id {
                state.oracle.may_halt_for(&["was on another server"]);
            }
            if data.timeline != state.postgres.data.timeline {
                // The second cause applies when a process remembers a timeline that the copy was never on.
                let causes = ["the slot is not on the new timeline", "was dropped and created again"];
                state.oracle.may_halt_for(&causes);
            }
            state.replace_data(data);
            identity(&state.postgres.data) != before
        })
    }

    /// Stops outboxd, restores an older copy of the server (a snapshot of the disk), and loads a newer dump over it. The slot is
    /// the old one, and its record names positions that other rows have by now. The rest of the dump does not matter.
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

    /// Ends the instances that match, and starts others.
    pub(super) async fn start_again_where(&mut self, such: impl Fn(&Process) -> bool) {
        while let Some(one) = self.processes.iter().position(&such) {
            let process = self.processes.remove(one);
            self.terminate(process, Duration::from_secs(1)).await;
            self.start();
        }
    }
}
