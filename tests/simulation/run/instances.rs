//! Instances of outboxd, which start and end.

use std::time::Duration;

use outboxd::{
    admin::Board,
    relay::{Ordering, SharedWindow, Source, supervise},
};
use process::shutdown::shutdown;

use super::{Run, freezing::while_not_frozen, process::Process};
use crate::{broker::SimulatedBroker, postgres::SimulatedDatabase, scenario::Sabotage};

impl Run {
    /// Returns the source of a new process, and the process's number.
    pub(super) fn source(&mut self) -> (u64, Source<SimulatedDatabase, SimulatedBroker>) {
        self.last_process += 1;
        let id = self.last_process;
        let mut relay = self.scenario.relay.clone();
        relay.window = SharedWindow::default();
        match self.scenario.sabotage {
            Some(Sabotage::NoGate) => relay.ordering = Ordering::Pipelined,
            Some(Sabotage::HoldTwice) => relay.in_flight_max *= 2,
            Some(Sabotage::NackedWithoutGrowingWaits) => relay.backoff_max = relay.backoff_min,
            _ => {}
        }
        let source = Source {
            name: "orders".to_owned(),
            database: SimulatedDatabase {
                world: self.world.clone(),
                process: id,
                options: self.options.clone(),
            },
            mapping: self.mapping.clone(),
            broker: SimulatedBroker { world: self.world.clone(), process: id },
            relay,
        };
        (id, source)
    }

    pub(super) fn start(&mut self) {
        let (id, source) = self.source();
        let (trigger, shutdown) = shutdown();
        let board = Board::new();
        let supervised = supervise(source, board.reporter("orders"), shutdown);
        let task = tokio::spawn(while_not_frozen(self.world.clone(), id, supervised));
        self.processes.push(Process { id, board, trigger, task });
        self.world.look(|state| state.note(|| format!("process {id} starts")));
    }

    pub(super) fn remove_one(&mut self) -> Process {
        let index = self.world.look(|state| state.rng.usize(0..self.processes.len()));
        self.processes.remove(index)
    }

    /// kill -9, and a new start.
    pub(crate) async fn crash(&mut self) {
        self.kill().await;
        self.world.pause(0..=500).await;
        self.start();
    }

    pub(super) async fn kill(&mut self) {
        let process = self.remove_one();
        self.world.look(|state| {
            state.slot_must_keep_up(process.id);
            state.note(|| format!("process {} is killed", process.id));
            // The kernel closes the connections of a frozen process, too.
            state.thaw(process.id);
        });
        process.task.abort();
        let _ = process.task.await;
    }

    /// SIGTERM, and a new start.
    pub(crate) async fn end(&mut self, drain_timeout_ms: u64) {
        let process = self.remove_one();
        self.terminate(process, Duration::from_millis(drain_timeout_ms)).await;
        self.world.pause(0..=500).await;
        self.start();
    }

    pub(super) async fn end_for_good(&mut self) {
        let process = self.remove_one();
        self.terminate(process, Duration::from_secs(30)).await;
    }

    pub(super) async fn terminate(&mut self, process: Process, drain_timeout: Duration) {
        let id = process.id;
        self.world.look(|state| {
            state.oracle.asked_to_end(id);
            state.note(|| format!("process {id} is asked to end"));
        });
        process.trigger.request(drain_timeout);
        let limit = drain_timeout + Duration::from_secs(60);
        match tokio::time::timeout(limit, process.task).await {
            Ok(Ok(ended)) => self.world.look(|state| {
                state.note(|| format!("process {id} ends: {ended:?}"));
                state.ended(id, ended);
            }),
            Ok(Err(error)) => {
                self.world.look(|state| state.oracle.violated(format!("process {id}: {error}")))
            }
            Err(_) => self
                .world
                .look(|state| state.oracle.violated(format!("process {id} does not end within {limit:?}"))),
        }
    }
}
