//! SIGSTOP and SIGCONT: a process does nothing for a while, keeps its connections, and then continues as if nothing had happened.
//! Its monitor, a task of its own, keeps running: it publishes nothing.

use std::{future::poll_fn, pin::pin, task::Poll};

use super::Run;
use crate::world::{World, WorldState};

/// Polls `process` unless it is frozen.
pub(super) async fn while_not_frozen<F: Future>(world: World, id: u64, process: F) -> F::Output {
    let mut process = pin!(process);
    poll_fn(|cx| {
        let frozen = world.look(|state| {
            let frozen = state.frozen.get_mut(&id);
            frozen.map(|waker| *waker = Some(cx.waker().clone())).is_some()
        });
        if frozen { Poll::Pending } else { process.as_mut().poll(cx) }
    })
    .await
}

impl Run {
    /// Freezes one process for a while, often longer than the servers tolerate silence.
    pub(crate) fn freeze_one(&mut self) {
        let index = self.world.look(|state| state.rng.usize(0..self.processes.len()));
        let id = self.processes[index].id;
        let longest = self.scenario.wal_sender_timeout.max(self.scenario.heartbeat * 3) * 2;
        self.world.change(|state| state.freeze(id));
        self.mend(longest.as_millis() as u64, move |state| state.thaw(id));
    }
}

impl WorldState {
    fn freeze(&mut self, process: u64) {
        self.note(|| format!("process {process} is stopped"));
        self.frozen.entry(process).or_default();
        self.broker_hears(process, false);
        self.oracle.frozen(process);
    }

    pub(super) fn thaw(&mut self, process: u64) {
        let Some(waker) = self.frozen.remove(&process) else { return };
        self.note(|| format!("process {process} goes on"));
        self.broker_hears(process, true);
        let now = self.now();
        self.oracle.thawed(process, now);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
