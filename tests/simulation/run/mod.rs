//! One simulation: a service that writes, instances of outboxd that start and end, faults, and then peace.

mod command;
mod freezing;
mod instances;
mod process;
mod put_back;
mod recovery;
mod service;
mod slot_fate;
mod strike;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, LazyLock},
    time::Duration,
};

use ::process::{heartbeat::TURN_MAX, shutdown::ShutdownTrigger};
use outboxd::{
    admin::SourceState,
    message::{ColumnNames, Mapping},
    postgres::{Cleanup, SourceDatabase, TableName},
};
use pg_replication::Endpoint;
use tokio::{task::JoinHandle, time::Instant};

use self::process::{INVALID_ROW, Process};
use crate::{
    postgres::data_directory::DataDirectory,
    scenario::Scenario,
    wal::{Row, RowId},
    world::{World, WorldState},
};

/// Time after the last fault within which everything must be delivered. A silent connection alone may take a minute.
const PEACE: Duration = Duration::from_secs(400);

/// Time without a turn after which a loop hangs. The unit's watchdog is more patient.
const HANGS_AFTER: Duration = TURN_MAX.saturating_mul(2);

/// Result of a simulation.
pub(crate) struct Report {
    pub(crate) violation: Option<String>,
    pub(crate) deliveries: u64,
    pub(crate) duplicates: u64,
    pub(crate) removals: u64,
    pub(crate) parks_refused: u64,
    /// Number of replays that finished.
    pub(crate) replayed: u64,
    /// Number of rows that were requeued.
    pub(crate) requeued: u64,
    /// Number of rows that were nacked and then parked.
    pub(crate) parked_after_nacks: usize,
    /// Largest number of times that one message was sent.
    pub(crate) sent_max: u32,
    /// The same, of the messages that the broker never refused.
    pub(crate) innocent_sent_max: u32,
    /// States in which some process was seen.
    pub(crate) states: Vec<SourceState>,
    pub(crate) trace: Vec<String>,
}

pub(crate) fn simulate(scenario: Scenario, trace: bool) -> Report {
    // Seeds the relay's jitter.
    fastrand::seed(scenario.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can be built");
    runtime.block_on(async {
        let mut run = Run::new(Arc::new(scenario), trace);
        let found = match run.live().await {
            Ok(()) => run.world.look(|state| state.oracle.violation.take()),
            Err(violation) => Some(violation),
        };
        run.world.look(|state| Report {
            violation: found,
            deliveries: state.oracle.deliveries,
            duplicates: state.oracle.duplicates,
            removals: state.oracle.removals,
            parks_refused: state.postgres.parks_refused,
            replayed: state.oracle.replayed,
            requeued: state.oracle.requeued,
            parked_after_nacks: state.oracle.parked_after_nacks(),
            sent_max: state.oracle.sent_max(false),
            innocent_sent_max: state.oracle.sent_max(true),
            states: std::mem::take(&mut run.states),
            trace: state.trace.take().unwrap_or_default(),
        })
    })
}

pub(crate) struct Run {
    pub(crate) world: World,
    scenario: Arc<Scenario>,
    processes: Vec<Process>,
    commands: Vec<Command>,
    last_process: u64,
    last_row: RowId,
    /// Copies of the data directory, for faults that restore one.
    copies: VecDeque<DataDirectory>,
    options: Arc<SourceDatabase>,
    mapping: Mapping,
    states: Vec<SourceState>,
    /// Processes that were frozen at the last look.
    were_frozen: BTreeSet<u64>,
}

/// A running command.
pub(super) struct Command {
    id: u64,
    trigger: ShutdownTrigger,
    task: JoinHandle<()>,
}

impl Run {
    fn new(scenario: Arc<Scenario>, trace: bool) -> Self {
        static ENDPOINT: LazyLock<Endpoint> =
            LazyLock::new(|| Endpoint::parse("postgresql://outboxd@simulated/orders").expect("it is a URL"));
        let options = SourceDatabase {
            endpoint: ENDPOINT.clone(),
            slot: "outboxd_orders".to_owned(),
            publication: "outboxd_orders".to_owned(),
            create: true,
            failover: false,
            table: TableName { schema: "public".to_owned(), table: "outbox".to_owned() },
            schema: "public".to_owned(),
            rows: Default::default(),
            cleanup: scenario.cleanup.then_some(Cleanup { retention: Duration::ZERO }),
            parks: scenario.relay.parks(),
            wal_sender_timeout: scenario.wal_sender_timeout,
        };
        let mapping = Mapping {
            source: "orders".to_owned(),
            columns: ColumnNames::default(),
            id: "{id}".parse().expect("a template"),
            exchange: "{aggregate_type}.events".parse().expect("a template"),
            routing_key: "{event_type}".parse().expect("a template"),
            headers: Vec::new(),
            properties: Vec::new(),
            properties_from_headers: false,
            content_type: None,
            message_bytes_max: 1 << 20,
        };
        Self {
            world: World::new(scenario.clone(), trace),
            scenario,
            processes: Vec::new(),
            commands: Vec::new(),
            last_process: 0,
            last_row: 0,
            copies: VecDeque::new(),
            options: Arc::new(options),
            mapping,
            states: Vec::new(),
            were_frozen: BTreeSet::new(),
        }
    }

    async fn live(&mut self) -> Result<(), String> {
        for _ in 0..self.scenario.backlog {
            self.write();
        }
        for _ in 0..self.scenario.instances {
            self.start();
            self.world.pause(0..=300).await;
        }
        let mut next_fault = Instant::now() + Duration::from_millis(self.scenario.between_faults_ms);
        for written in 0..self.scenario.transactions {
            self.write();
            if self.scenario.invalid && written == self.scenario.transactions / 2 {
                self.write_rows(vec![Row { id: 0, aggregate: 0, payload_bytes: 1, invalid: true }]);
            }
            self.look_around();
            self.recover().await;
            self.run_commands();
            self.world.pause(0..=self.scenario.between_writes_ms).await;
            if next_fault <= Instant::now()
                && let Some(fault) = self.world.look(|state| {
                    let faults = &state.scenario.faults;
                    (!faults.is_empty()).then(|| faults[state.rng.usize(0..faults.len())])
                })
            {
                fault.happen(self).await;
                let between = self.scenario.between_faults_ms;
                next_fault = Instant::now() + self.world.look(|state| state.millis(0..=between * 2));
            }
            self.check()?;
        }
        self.find_peace().await?;
        for _ in 0..self.processes.len() {
            self.end_for_good().await;
        }
        self.check()?;
        // A last start finds nothing to do.
        self.start();
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.check()
    }

    fn check(&self) -> Result<(), String> {
        self.world.look(|state| state.oracle.violation.take()).map_or(Ok(()), Err)
    }

    /// Ends the faults and waits until everything is delivered.
    async fn find_peace(&mut self) -> Result<(), String> {
        self.world.change(|state| {
            state.note(|| "*** peace".to_owned());
            state.peace = true;
        });
        let deadline = Instant::now() + PEACE;
        let mut started_again = false;
        let mut last_commands = false;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.see_states();
            self.see_that_loops_turn();
            self.recover().await;
            self.check()?;
            // A process that halted at an invalid row stays halted if the new server does not have that row. A person restarts it.
            if !started_again && Instant::now() + PEACE / 2 > deadline {
                started_again = true;
                self.start_again_where(|process| process.is_halted(INVALID_ROW)).await;
            }
            let unfinished = self.world.look(|state| state.unfinished()).or_else(|| self.running_command());
            match unfinished {
                None if !last_commands => {
                    last_commands = true;
                    self.run_last_commands();
                }
                None => return Ok(()),
                Some(missing) if deadline <= Instant::now() => {
                    let shown: Vec<String> = self.processes.iter().map(Process::shown).collect();
                    return Err(format!("{PEACE:?} after the last fault {missing}: {}", shown.join(", ")));
                }
                Some(_) => {}
            }
        }
    }

    /// Unrelated activity: other tables' WAL, a copy of the server, a look at the slot.
    fn look_around(&mut self) {
        self.see_states();
        self.see_that_loops_turn();
        let copy = self.world.change(|state| {
            if state.one_in(3) {
                state.postgres.data.wal_end += state.rng.u64(1..500);
            }
            let processes: Vec<u64> =
                state.postgres.sessions.values().map(|session| session.process).collect();
            for process in processes {
                state.slot_must_keep_up(process);
            }
            let has_slot = state.postgres.data.slot.is_some();
            (state.one_in(4) && has_slot).then(|| state.postgres.data.clone())
        });
        self.copies.extend(copy);
        if self.copies.len() > 3 {
            self.copies.pop_front();
        }
    }

    /// A watchdog would restart a process that hangs. Whatever the servers do, one that only waits must not look like that.
    /// A frozen process turns no loop, and one that goes on since the last look may not have done so yet.
    fn see_that_loops_turn(&mut self) {
        let frozen: BTreeSet<u64> = self.world.look(|state| state.frozen.keys().copied().collect());
        let goes_on =
            |process: &&Process| ![&frozen, &self.were_frozen].iter().any(|ids| ids.contains(&process.id));
        for process in self.processes.iter().filter(goes_on) {
            if let Some((_, age)) = process.board.hanging(HANGS_AFTER).first() {
                let shown = process.shown();
                self.world.look(|state| state.oracle.violated(format!("hangs for {age:?}: {shown}")));
            }
        }
        self.were_frozen = frozen;
    }

    fn see_states(&mut self) {
        let seen = self.processes.iter().filter_map(Process::state);
        self.states.extend(seen);
        self.states.dedup();
    }

    /// Repairs something after a random time.
    pub(crate) fn mend(&self, within_ms: u64, how: impl FnOnce(&mut WorldState) + Send + 'static) {
        let world = self.world.clone();
        tokio::spawn(async move {
            world.pause(0..=within_ms).await;
            world.change(how);
        });
    }
}

/// Sums over many simulations.
#[derive(Default)]
pub(crate) struct Sums {
    pub(crate) seeds: u64,
    pub(crate) deliveries: u64,
    pub(crate) duplicates: u64,
    pub(crate) removals: u64,
}

impl Sums {
    pub(crate) fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.deliveries += report.deliveries;
        self.duplicates += report.duplicates;
        self.removals += report.removals;
    }
}
