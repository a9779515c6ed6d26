//! A copy of the server that takes its place.

use std::time::Duration;

use super::{
    Run,
    process::{INVALID_ROW, Process},
};
use crate::postgres::DataDirectory;

impl Run {
    /// A copy of the server takes its place. If it has the same identity, nothing is written before every process has met
    /// it: once its WAL has grown beyond what was confirmed it cannot be told from the one before.
    pub(crate) async fn put_back(&mut self, changed: impl FnOnce(&mut DataDirectory)) {
        let Some(mut data) = self.copies.pop_back() else { return };
        self.copies.clear();
        let recognisable = self.world.change(|state| {
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
                state.oracle.may_halt_for(&["is not the one that was there"]);
            }
            // Made before a teardown, which the copy knows nothing of.
            if data.publishes_otherwise_than(&state.postgres.data) {
                state.oracle.may_halt_for(&["the publication is not the one that was there"]);
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
                let causes = ["the slot did not come along", "is not the one that was there"];
                state.oracle.may_halt_for(&causes);
            }
            state.replace_data(data);
            identity(&state.postgres.data) != before
        });
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

    /// Ends such instances, and starts others.
    pub(super) async fn start_again_where(&mut self, such: impl Fn(&Process) -> bool) {
        while let Some(one) = self.processes.iter().position(&such) {
            let process = self.processes.remove(one);
            self.terminate(process, Duration::from_secs(1)).await;
            self.start();
        }
    }
}
