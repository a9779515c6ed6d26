//! Runs of `outboxd replay` and `outboxd parked requeue` beside the relay.

use std::time::Duration;

use outboxd::{
    admin::Board,
    backfill::{replay::replay, snapshot::Selection},
    parking::requeue::{Selected, requeue},
};
use process::shutdown::shutdown;

use super::{Command, Run};

impl Run {
    /// Sometimes starts a command, or ends one early.
    pub(super) fn run_commands(&mut self) {
        let (replays, requeues) = (self.scenario.replays, self.scenario.requeues);
        if !replays && !requeues {
            return;
        }
        self.commands.retain(|command| !command.task.is_finished());
        if let Some(command) = self.commands.first() {
            match self.world.look(|state| state.rng.u8(0..20)) {
                0 => self.kill_commands(),
                1 => command.trigger.request(Duration::from_millis(100)),
                _ => {}
            }
            return;
        }
        let due = |one_in| self.world.look(|state| state.one_in(one_in));
        let (replay_now, requeue_now) = (replays && due(8), requeues && due(5));
        if replay_now {
            self.start_replay();
        }
        if requeue_now {
            self.start_requeue();
        }
    }

    /// Runs the commands once more, after the last fault.
    pub(super) fn run_last_commands(&mut self) {
        if self.scenario.replays {
            self.start_replay();
        }
        if self.scenario.requeues {
            self.start_requeue();
        }
    }

    /// Describes a command that is still running.
    pub(super) fn running_command(&self) -> Option<String> {
        let command = self.commands.iter().find(|command| !command.task.is_finished())?;
        Some(format!("the command of process {} is at work", command.id))
    }

    /// kill -9.
    pub(super) fn kill_commands(&mut self) {
        for Command { id, task, .. } in self.commands.drain(..) {
            self.world.look(|state| state.note(|| format!("process {id}, a command, is killed")));
            task.abort();
        }
    }

    fn start_replay(&mut self) {
        let (id, source) = self.source();
        let (trigger, shutdown) = shutdown();
        let world = self.world.clone();
        world.look(|state| {
            state.oracle.replay_begins(id, &state.scenario.relay);
            state.note(|| format!("process {id} replays"));
        });
        let task = tokio::spawn(async move {
            let report = Board::new().reporter("orders");
            let ended = replay(&source, &Selection::default(), &report, shutdown).await;
            world.look(|state| {
                state.note(|| format!("process {id} replayed: {ended:?}"));
                state.oracle.replay_ended(id, &ended);
            });
        });
        self.commands.push(Command { id, trigger, task });
    }

    fn start_requeue(&mut self) {
        let (id, source) = self.source();
        let (trigger, shutdown) = shutdown();
        let world = self.world.clone();
        let (selected, out_of_order) = world.look(|state| {
            let out_of_order = state.one_in(4);
            let mut names = Vec::new();
            if state.one_in(3) {
                for row in state.postgres.data.parked.keys() {
                    if state.rng.bool() {
                        names.push(row.to_string());
                    }
                }
            }
            state.oracle.requeue_begins(id, out_of_order);
            state.note(|| format!("process {id} requeues {names:?}, or all; out of order: {out_of_order}"));
            (if names.is_empty() { Selected::All } else { Selected::Named(names) }, out_of_order)
        });
        let task = tokio::spawn(async move {
            let tell = |entry: &_, fate: &_| told(&world, id, entry, fate);
            let ended = requeue(&source, &selected, out_of_order, shutdown, tell).await;
            world.look(|state| {
                state.note(|| format!("process {id} requeued: {ended:?}"));
                state.oracle.requeue_ended(id, selected == Selected::All, &ended);
            });
        });
        self.commands.push(Command { id, trigger, task });
    }
}

fn told(
    world: &crate::world::World,
    id: u64,
    entry: &outboxd::parking::parked_rows::ParkedEntry,
    fate: &outboxd::parking::requeue::Fate,
) {
    world.look(|state| {
        state.note(|| format!("process {id} says of parked row {:?}: {fate:?}", entry.message_id));
        state.oracle.fate_told(id, entry.position, fate);
    });
}
