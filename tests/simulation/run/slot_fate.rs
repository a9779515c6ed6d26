//! Changes of the slot that nobody should make.

use std::time::Duration;

use super::Run;
use crate::world::WorldState;

impl Run {
    /// Drops the slot while it is in use, and creates it again after more writes. Only while its holder lives, and no other
    /// process: to a standby that comes first, and after a kill, the slot is the earlier one.
    pub(crate) async fn make_slot_anew(&mut self) {
        let holder = self.world.look(|state| state.postgres.data.holder_process());
        let [only] = self.processes.as_slice() else { return };
        // An instance at an invalid row may end without another look at the slot.
        if holder != Some(only.id) || self.scenario.invalid || !self.world.change(|state| state.drop_slot()) {
            return;
        }
        self.world.pause(0..=300).await;
        self.write_some();
        self.world.change(|state| state.make_slot_by_hand());
        for _ in 0..3_000 {
            if self.world.look(|state| state.postgres.data.has_marked_gap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.world
            .look(|state| state.oracle.violated("nobody noticed that the slot was made anew".to_owned()));
    }

    /// Drops the slot while no instance runs. Creates it again if the last instance left it in good order.
    pub(crate) async fn lose_slot_while_stopped(&mut self, anew: bool) {
        let instances = self.processes.len();
        for _ in 0..instances {
            if self.world.look(|state| !anew && state.rng.bool()) {
                self.kill().await;
            } else {
                self.end_for_good().await;
            }
        }
        self.world.pause(0..=100).await;
        let dropped = self.world.change(|state| state.drop_slot());
        self.write_some();
        if dropped && anew {
            self.world.change(|state| {
                if state.postgres.data.is_released() {
                    state.make_slot_by_hand();
                }
            });
        }
        for _ in 0..instances {
            self.start();
        }
    }

    /// Drops the publication, writes rows, and creates it again. The slot skips these rows.
    pub(crate) async fn make_publication_anew_while_stopped(&mut self) {
        let instances = self.processes.len();
        for _ in 0..instances {
            if self.world.look(|state| state.rng.bool()) {
                self.kill().await;
            } else {
                self.end_for_good().await;
            }
        }
        self.world.pause(0..=100).await;
        self.write_some();
        self.world.change(WorldState::make_publication_anew);
        for _ in 0..instances {
            self.start();
        }
    }

    fn write_some(&mut self) {
        for _ in 0..self.world.look(|state| state.rng.u8(0..5)) {
            self.write();
        }
    }
}
