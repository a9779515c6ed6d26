//! One simulation: a service that writes, instances of outboxd that come and go, faults, and then peace.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
    time::Duration,
};

use outboxd::{
    admin::{Board, SourceState},
    outbox::{ColumnNames, Mapping},
    postgres::{SourceDatabase, TableName, endpoint::Endpoint},
    relay::{Ended, Ordering, Source, recover, supervise},
    shutdown::{ShutdownTrigger, shutdown},
};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    broker::SimulatedBroker,
    postgres::{DataDirectory, SimulatedDatabase},
    sabotage::Sabotage,
    scenario::Scenario,
    wal::{Row, RowId, Transaction},
    world::World,
};

/// How long after the last fault everything has to be delivered. A silent connection alone may take a minute.
const PEACE: Duration = Duration::from_secs(400);

/// What came of a simulation.
pub(crate) struct Report {
    pub(crate) violation: Option<String>,
    pub(crate) deliveries: u64,
    pub(crate) duplicates: u64,
    pub(crate) trace: Vec<String>,
}

pub(crate) fn simulate(scenario: Scenario, trace: bool) -> Report {
    // The relay's jitter.
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
            trace: state.trace.take().unwrap_or_default(),
        })
    })
}

/// An instance of outboxd: a place where a process runs, most of the time.
struct Process {
    id: u64,
    board: Board,
    trigger: ShutdownTrigger,
    task: JoinHandle<Ended>,
}

impl Process {
    fn is_halted(&self, why: &str) -> bool {
        self.board
            .status()
            .sources
            .iter()
            .any(|source| source.state == SourceState::Halted && source.reason.contains(why))
    }
}

/// What somebody reads who is to start an instance again, or to run `outboxd recover`.
const INVALID_ROW: &str = "cannot become";
const GAP: &str = "outboxd recover";

pub(crate) struct Run {
    pub(crate) world: World,
    scenario: Arc<Scenario>,
    processes: Vec<Process>,
    last_process: u64,
    last_row: RowId,
    /// Copies of the data directory, for bad times.
    copies: VecDeque<DataDirectory>,
    options: Arc<SourceDatabase>,
    mapping: Mapping,
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
            table: TableName { schema: "public".to_owned(), table: "outbox".to_owned() },
            cleanup: None,
            wal_sender_timeout: scenario.wal_sender_timeout,
        };
        let mapping = Mapping {
            source: "orders".to_owned(),
            columns: ColumnNames::default(),
            exchange: "{aggregate_type}.events".parse().expect("a template"),
            routing_key: "{event_type}".parse().expect("a template"),
            headers: Vec::new(),
            content_type: None,
            message_bytes_max: 1 << 20,
        };
        Self {
            world: World::new(scenario.clone(), trace),
            scenario,
            processes: Vec::new(),
            last_process: 0,
            last_row: 0,
            copies: VecDeque::new(),
            options: Arc::new(options),
            mapping,
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
        // And a last start finds nothing to do.
        self.start();
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.check()
    }

    fn check(&self) -> Result<(), String> {
        self.world.look(|state| state.oracle.violation.take()).map_or(Ok(()), Err)
    }

    /// Faults stop, and everything is delivered: the run ends.
    async fn find_peace(&mut self) -> Result<(), String> {
        self.world.change(|state| {
            state.note(|| "*** peace".to_owned());
            state.peace = true;
        });
        let deadline = Instant::now() + PEACE;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.recover().await;
            self.check()?;
            match self.world.look(|state| state.unfinished()) {
                None => return Ok(()),
                Some(missing) if deadline <= Instant::now() => {
                    return Err(format!("{PEACE:?} after the last fault {missing}"));
                }
                Some(_) => {}
            }
        }
    }

    /// What somebody does who is not after anything: other tables' WAL, a copy of the server, a look at the slot.
    fn look_around(&mut self) {
        let copy = self.world.change(|state| {
            if state.one_in(3) {
                state.postgres.data.wal_end += state.rng.u64(1..500);
            }
            let processes: Vec<u64> =
                state.postgres.sessions.values().map(|session| session.process).collect();
            for process in processes {
                state.slot_must_keep_up(process);
            }
            // Not from between the making of the slot and its first record: whoever remembers the slot halts on such a copy, and
            // to `outboxd recover`, which remembers nothing, its slot is one that was made by hand.
            let recorded = state.postgres.data.slot.is_some() && state.postgres.data.record.is_some();
            (state.one_in(4) && recorded).then(|| state.postgres.data.clone())
        });
        self.copies.extend(copy);
        if self.copies.len() > 3 {
            self.copies.pop_front();
        }
    }

    /// A transaction of the service.
    fn write(&mut self) {
        let scenario = self.scenario.clone();
        let (rows, rolled_back) = self.world.look(|state| {
            let count = if state.one_in(6) { 0 } else { state.rng.u32(1..=scenario.rows_max) };
            let rows = (0..count).map(|_| Row {
                id: 0,
                aggregate: state.rng.u8(0..scenario.aggregates),
                payload_bytes: state.rng.u16(0..=scenario.payload_max),
                invalid: false,
            });
            (rows.collect::<Vec<_>>(), state.rng.u8(0..10) == 0)
        });
        if rolled_back {
            self.last_row += rows.len() as RowId;
            self.world.change(|state| state.postgres.data.wal_end += 100);
        } else {
            self.write_rows(rows);
        }
    }

    fn write_rows(&mut self, mut rows: Vec<Row>) {
        for row in &mut rows {
            self.last_row += 1;
            row.id = self.last_row;
        }
        self.world.change(|state| {
            if state.postgres.mode == crate::postgres::Mode::Down {
                return;
            }
            let data = &mut state.postgres.data;
            // The commit record may follow at once, when the rows were written before the last commit.
            let commit_lsn = data.wal_end + state.rng.u64(0..3) * 40;
            let transaction =
                Transaction { commit_lsn, end_lsn: commit_lsn + 48, rows, others: state.rng.u8(0..4) == 0 };
            data.wal_end = transaction.end_lsn;
            state.oracle.committed(&transaction);
            let ids: Vec<RowId> = transaction.rows.iter().map(|row| row.id).collect();
            state.postgres.data.transactions.push(Arc::new(transaction));
            state.note(|| format!("service: commits {ids:?} at {commit_lsn}"));
        });
    }

    /// What a new process is started with, and its number.
    fn source(&mut self) -> (u64, Source<SimulatedDatabase, SimulatedBroker>) {
        self.last_process += 1;
        let id = self.last_process;
        let mut relay = self.scenario.relay.clone();
        match self.scenario.sabotage {
            Some(Sabotage::NoGate) => relay.ordering = Ordering::Pipelined,
            Some(Sabotage::HoldTwice) => relay.in_flight_max *= 2,
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

    fn start(&mut self) {
        let (id, source) = self.source();
        let (trigger, shutdown) = shutdown();
        let board = Board::new();
        let task = tokio::spawn(supervise(source, board.reporter("orders"), shutdown));
        self.processes.push(Process { id, board, trigger, task });
        self.world.look(|state| state.note(|| format!("process {id} starts")));
    }

    /// `outboxd recover`, by somebody who sees that an instance has halted for its slot. Some are killed, or asked to end: the
    /// gap stays, and the next one begins anew.
    async fn recover(&mut self) {
        if !self.processes.iter().any(|process| process.is_halted(GAP)) {
            return;
        }
        let (id, source) = self.source();
        let (trigger, shutdown) = shutdown();
        let report = Board::new().reporter("orders");
        self.world.look(|state| state.note(|| format!("process {id} recovers")));
        let mut task = tokio::spawn(async move { recover(&source, None, &report, shutdown).await });
        let limit = self.world.look(|state| {
            let ends_early = !state.peace && state.one_in(3);
            ends_early.then(|| (state.millis(0..=300), state.rng.bool()))
        });
        let ended = match limit {
            None => task.await,
            Some((limit, kill)) => match tokio::time::timeout(limit, &mut task).await {
                Ok(ended) => ended,
                Err(_) if kill => {
                    task.abort();
                    task.await
                }
                Err(_) => {
                    trigger.request(Duration::from_millis(100));
                    task.await
                }
            },
        };
        self.world.look(|state| {
            let outcome = match ended {
                Ok(Ok(recovered)) => format!("{recovered:?}"),
                Ok(Err(error)) => error.to_string(),
                Err(error) if error.is_cancelled() => "killed".to_owned(),
                Err(_) => return state.oracle.violated(format!("process {id} panicked as it recovered")),
            };
            state.note(|| format!("process {id} recovered: {outcome}"));
        });
    }

    fn take_one(&mut self) -> Process {
        let index = self.world.look(|state| state.rng.usize(0..self.processes.len()));
        self.processes.remove(index)
    }

    /// kill -9, and a new start.
    pub(crate) async fn crash(&mut self) {
        let process = self.take_one();
        self.world.look(|state| {
            state.slot_must_keep_up(process.id);
            state.note(|| format!("process {} is killed", process.id));
        });
        process.task.abort();
        let _ = process.task.await;
        self.world.pause(0..=500).await;
        self.start();
    }

    /// SIGTERM, and a new start.
    pub(crate) async fn end(&mut self, drain_timeout_ms: u64) {
        let process = self.take_one();
        self.terminate(process, Duration::from_millis(drain_timeout_ms)).await;
        self.world.pause(0..=500).await;
        self.start();
    }

    async fn end_for_good(&mut self) {
        let process = self.take_one();
        self.terminate(process, Duration::from_secs(30)).await;
    }

    async fn terminate(&mut self, process: Process, drain_timeout: Duration) {
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

    /// A while from now, something gets well.
    pub(crate) fn mend(&self, within_ms: u64, how: impl FnOnce(&mut crate::world::State) + Send + 'static) {
        let world = self.world.clone();
        tokio::spawn(async move {
            world.pause(0..=within_ms).await;
            world.change(how);
        });
    }

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
            if self.processes[one].is_halted(INVALID_ROW) {
                let process = self.processes.remove(one);
                self.terminate(process, Duration::from_secs(1)).await;
                self.start();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.world.look(|state| {
            state.oracle.violated("a process never met the server that was put back".to_owned())
        });
    }
}

/// Sums of many simulations.
#[derive(Default)]
pub(crate) struct Sums {
    pub(crate) seeds: u64,
    pub(crate) deliveries: u64,
    pub(crate) duplicates: u64,
}

impl Sums {
    pub(crate) fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.deliveries += report.deliveries;
        self.duplicates += report.duplicates;
    }
}
