//! The oracle: watches everything and checks the product's promises. Each check states one.

mod again;
mod beside;
mod command;
mod copies;
mod delivery;
mod ending;
mod gap;
mod slot;

use std::collections::{BTreeMap, HashMap, HashSet};

use outboxd::relay::{BacklogPolicy, Ordering};
use tokio::time::Instant;

pub(crate) use self::command::Sender;
use self::{again::Again, command::Command};
use crate::{
    postgres::{data_directory::DataDirectory, state::SessionId},
    scenario::Scenario,
    wal::{RowId, Transaction},
};

pub(crate) struct Oracle {
    /// The first broken promise.
    pub(crate) violation: Option<String>,
    rows: HashMap<RowId, RowSeen>,
    /// Rows by aggregate, in commit order.
    aggregates: BTreeMap<u8, Vec<RowId>>,
    processes: BTreeMap<u64, ProcessSeen>,
    per_aggregate: bool,
    in_flight_max: usize,
    in_flight_bytes_max: usize,
    /// Number of histories of the server. Restoring a copy starts another one.
    epoch: u32,
    /// Transactions of this history before this one are settled.
    settled_before: usize,
    /// Rows confirmed in the slot on disk or in its record by a clean end or a server crash. No process may repeat them.
    sealed: HashSet<RowId>,
    /// Causes of a gap that occurred.
    gaps: HashSet<&'static str>,
    /// Processes that run `outboxd recover`.
    pub(crate) recovering: HashSet<u64>,
    /// The slot is created at once, without a backlog.
    skips_backlog: bool,
    /// Connection whose message was accepted last, by fence.
    publishing: HashMap<String, u64>,
    /// Connections after which another one has published.
    superseded: HashSet<u64>,
    /// Copies, by connection.
    again: HashMap<u64, Again>,
    /// Processes that run `outboxd replay` or `outboxd parked requeue`.
    commands: HashMap<u64, Command>,
    /// Number of replays that finished.
    pub(crate) replayed: u64,
    /// Number of rows that were requeued.
    pub(crate) requeued: u64,
    pub(crate) duplicates: u64,
    pub(crate) deliveries: u64,
    pub(crate) removals: u64,
}

#[derive(Default)]
struct RowSeen {
    aggregate: u8,
    /// First row of the row's transaction. Rows are numbered in insert order.
    transaction: RowId,
    /// The row is in the server's present history, and was not lost when a copy was restored.
    live: bool,
    invalid: bool,
    exempt: bool,
    delivered: u32,
    sent: u32,
    dropped: bool,
    /// A process was told that the row is in the table of parked rows.
    parked: bool,
    /// The row was parked once, perhaps in a lost history. Later rows of its aggregate may have passed it.
    was_parked: bool,
    /// The row was nacked or returned at least once.
    refused: bool,
    nacked: bool,
    returned_last: bool,
    /// Times when a process was told that the row is confirmed or parked, or dropped it.
    settled: Vec<Settled>,
    /// Connection of the last such time.
    told_on: Option<u64>,
}

struct Settled {
    by: u64,
    at: Instant,
}

/// Rows, and how many of them are settled without a gap.
#[derive(Default)]
struct InOrder {
    rows: Vec<RowId>,
    settled: usize,
}

impl InOrder {
    fn advance(&mut self, mut is_settled: impl FnMut(&RowId) -> bool) {
        while self.rows.get(self.settled).is_some_and(&mut is_settled) {
            self.settled += 1;
        }
    }
}

#[derive(Default)]
struct ProcessSeen {
    had_slot: bool,
    has_slot: bool,
    /// Time when the process lost the slot and noticed.
    left: Option<Instant>,
    /// The process was told that its stream broke, and has not started another one.
    stream_broke: bool,
    frozen: bool,
    thawed: Option<Instant>,
    identity: Option<(u32, u32)>,
    session: SessionId,
    /// Epoch of the session.
    epoch: u32,
    /// Rows of the session.
    handed: HashSet<RowId>,
    /// Rows that the process holds until they are settled.
    held: InOrder,
    /// Last row that was settled without a gap.
    settled_to: RowId,
    told: HashSet<RowId>,
    /// Rows that this process knows to be settled, with the epoch.
    done: HashMap<RowId, u32>,
    in_flight: HashMap<RowId, u64>,
    asked_to_end: bool,
    finished: bool,
}

impl Oracle {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            violation: None,
            rows: HashMap::new(),
            aggregates: BTreeMap::new(),
            processes: BTreeMap::new(),
            per_aggregate: scenario.relay.ordering == Ordering::PerAggregate,
            in_flight_max: scenario.relay.in_flight_max,
            in_flight_bytes_max: scenario.relay.in_flight_bytes_max,
            epoch: 0,
            settled_before: 0,
            sealed: HashSet::new(),
            gaps: HashSet::from(["`outboxd recover` was interrupted before it created the slot"]),
            recovering: HashSet::new(),
            skips_backlog: scenario.relay.backlog == BacklogPolicy::Skip,
            publishing: HashMap::new(),
            superseded: HashSet::new(),
            again: HashMap::new(),
            commands: HashMap::new(),
            replayed: 0,
            requeued: 0,
            duplicates: 0,
            deliveries: 0,
            removals: 0,
        }
    }

    /// Largest number of times that one message was sent, of all messages or of those that were never refused.
    pub(crate) fn sent_max(&self, innocent: bool) -> u32 {
        let rows = self.rows.values().filter(|row| !(innocent && row.refused));
        rows.map(|row| row.sent).max().unwrap_or(0)
    }

    pub(crate) fn parked_after_nacks(&self) -> usize {
        self.rows.values().filter(|row| row.was_parked && row.nacked).count()
    }

    pub(crate) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn row(&mut self, row: RowId) -> &mut RowSeen {
        self.rows.entry(row).or_default()
    }

    fn process(&mut self, process: u64) -> &mut ProcessSeen {
        self.processes.entry(process).or_default()
    }

    pub(crate) fn committed(&mut self, transaction: &Transaction) {
        let first = transaction.rows.first().map_or(0, |row| row.id);
        for row in &transaction.rows {
            let seen = RowSeen {
                aggregate: row.aggregate,
                transaction: first,
                live: true,
                invalid: row.invalid,
                ..RowSeen::default()
            };
            self.rows.insert(row.id, seen);
            self.aggregates.entry(row.aggregate).or_default().push(row.id);
        }
    }

    /// A row from before the slot, with `backlog = "skip"`.
    pub(crate) fn exempt(&mut self, row: RowId) {
        self.row(row).exempt = true;
    }

    /// No row is removed before its message is confirmed, or dropped by policy.
    pub(crate) fn removed(&mut self, row: RowId) {
        if self.row(row).settled.is_empty() {
            self.violated(format!("row {row} was removed, and nobody was told that the broker has it"));
        }
        self.removals += 1;
    }

    /// The server has another history now.
    pub(crate) fn history_changed(&mut self, data: &DataDirectory) {
        self.epoch += 1;
        self.settled_before = 0;
        self.sealed.clear();
        let live: HashSet<RowId> =
            data.transactions.iter().flat_map(|transaction| &transaction.rows).map(|row| row.id).collect();
        for (id, row) in &mut self.rows {
            row.live = live.contains(id);
            row.parked &= data.parked.contains_key(id);
        }
    }

    /// The slot's position may have gone back, or the slot is gone.
    pub(crate) fn slot_forgot(&mut self) {
        self.sealed.clear();
    }

    /// The next holder of the slot repeats nothing before this position.
    pub(crate) fn settled_for_good(&mut self, data: &DataDirectory, before: u64) {
        let settled = data.transactions.iter().take_while(|transaction| transaction.commit_lsn < before);
        let rows = settled.flat_map(|transaction| &transaction.rows).map(|row| row.id);
        let delivered = |row: &RowId| self.rows.get(row).is_some_and(|row| row.delivered > 0);
        self.sealed = rows.filter(delivered).collect();
    }

    // Seen by the database.

    pub(crate) fn heard_of_the_end(&mut self, process: u64) {
        self.process(process).stream_broke = true;
    }

    pub(crate) fn identified(&mut self, process: u64, identity: (u32, u32)) {
        let process = self.process(process);
        process.stream_broke = false;
        if process.identity.replace(identity).is_some_and(|before| before != identity) {
            process.done.clear();
        }
    }

    /// The process got the slot, or the temporary one, which counts as the slot while there is none.
    ///
    /// One process can get the slot although another is about to create it. With `backlog = "skip"` it created the slot at once,
    /// just after it had seen that there was none (after a teardown), while `recover` has begun. To the server these are two slots.
    /// The process must not use its slot, see [`Oracle::recovered_by_another`].
    pub(crate) fn got_slot(&mut self, process: u64) {
        if self.sender(process) != Sender::Relay {
            self.violated(format!("process {process} gets the slot, and is to leave it alone"));
        }
        let beside = self.skips_backlog && self.recovered_by_another(process);
        if !beside && self.others_with_slot(process).next().is_some() {
            self.violated(format!("process {process} has the slot, and so has another"));
        }
        let process = self.process(process);
        process.had_slot = true;
        process.has_slot = true;
        process.left = None;
    }

    fn others_with_slot(&self, process: u64) -> impl Iterator<Item = u64> {
        let others = self.processes.iter().filter(move |(other, seen)| **other != process && seen.has_slot);
        others.map(|(other, _)| *other)
    }

    /// Another process runs `outboxd recover` and holds the temporary slot. The slot of this process is not the right one.
    pub(crate) fn recovered_by_another(&self, process: u64) -> bool {
        self.others_with_slot(process).any(|other| self.recovering.contains(&other))
    }

    pub(crate) fn left_slot(&mut self, process: u64, knows: Option<Instant>) {
        let process = self.process(process);
        process.has_slot = false;
        process.left = knows.filter(|_| !process.frozen);
    }

    /// A frozen process notices nothing and is not blamed.
    pub(crate) fn frozen(&mut self, process: u64) {
        let process = self.process(process);
        process.frozen = true;
        process.left = None;
    }

    pub(crate) fn thawed(&mut self, process: u64, now: Instant) {
        let process = self.process(process);
        process.frozen = false;
        process.thawed = Some(now);
    }

    pub(crate) fn session_began(&mut self, process: u64, session: SessionId) {
        let epoch = self.epoch;
        let process = self.process(process);
        process.epoch = epoch;
        process.session = session;
        process.handed.clear();
        process.held = InOrder::default();
        process.told.clear();
        process.in_flight.clear();
    }

    /// The server may send earlier rows all the same, which the process skips.
    pub(crate) fn asked_for_rows_after(&mut self, process: u64, row: RowId) {
        let process = self.process(process);
        process.settled_to = process.settled_to.max(row);
    }

    /// Only a process that has streamed remembers anything about a server.
    pub(crate) fn has_streamed(&self, process: u64) -> bool {
        self.processes.get(&process).is_some_and(|seen| seen.session != 0)
    }

    /// Memory is bounded: nothing is read while `in_flight_max` messages are held.
    pub(crate) fn handed_out(&mut self, process: u64, session: SessionId, row: RowId) {
        let max = self.in_flight_max;
        let seen = self.process(process);
        if seen.session != session {
            return;
        }
        seen.handed.insert(row);
        // The process may skip rows that it knows to be settled. Rows are numbered in commit order.
        if row <= seen.settled_to || seen.done.contains_key(&row) {
            return;
        }
        let held = seen.held.rows.len() - seen.held.settled;
        seen.held.rows.push(row);
        if held >= max {
            self.violated(format!(
                "row {row} was read while {held} messages were held, in_flight_max is {max}"
            ));
        }
    }
}
