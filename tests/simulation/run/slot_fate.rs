//! Somebody who does to the slot what nobody should.

use std::time::Duration;

use super::Run;
use crate::world::WorldState;

impl Run {
    /// Drops the slot under whoever uses it, and makes it anew behind what is written meanwhile. Only while its holder lives, and
    /// nobody else: to a standby that comes first, and after a kill, it is the slot that was there; see ARCHITECTURE.md.
    pub(crate) async fn make_slot_anew(&mut self) {
        let holder = self.world.look(|state| state.postgres.data.holder_process());
        let [only] = self.processes.as_slice() else { return };
        // At an invalid row it may end without another look at the slot.
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

    /// Drops the slot while no instance runs, and makes it anew if the last one left it in good order.
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

    /// Rows are written while there is none, and the slot skips them.
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
