//! Watches everything and knows what must hold. See the checks; each says what the product promises.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use outboxd::relay::{Ended, Ordering};
use tokio::time::Instant;

use crate::{
    postgres::{DataDirectory, Mode, SessionId},
    scenario::Scenario,
    wal::{Row, RowId, Transaction},
    world::{Link, State},
};

pub(crate) struct Oracle {
    /// The first promise that was broken.
    pub(crate) violation: Option<String>,
    rows: HashMap<RowId, RowSeen>,
    /// Rows by aggregate, in commit order.
    aggregates: BTreeMap<u8, Vec<RowId>>,
    processes: BTreeMap<u64, ProcessSeen>,
    per_aggregate: bool,
    in_flight_max: usize,
    in_flight_bytes_max: usize,
    /// Counts the histories that the server had: a copy put back begins another one.
    epoch: u32,
    /// Transactions of this history before this one are known to be settled.
    settled_before: usize,
    /// Rows that a clean end left confirmed: nobody may repeat them.
    sealed: HashSet<RowId>,
    pub(crate) duplicates: u64,
    pub(crate) deliveries: u64,
}

#[derive(Default)]
struct RowSeen {
    aggregate: u8,
    /// In the server's history; a row that was lost with a copy put back is not.
    live: bool,
    invalid: bool,
    exempt: bool,
    delivered: u32,
    dropped: bool,
    /// Nacked or returned, at least once.
    refused: bool,
    returned_last: bool,
    /// Each time that a process was told that the broker has it, or dropped it.
    settled: Vec<Settled>,
    /// On which connection that was last.
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
    /// When it lost the slot, and knew.
    left: Option<Instant>,
    identity: Option<(u32, u32)>,
    session: SessionId,
    /// Of the session.
    epoch: u32,
    /// The rows of the session.
    handed: InOrder,
    /// Those that it holds until they are settled.
    held: InOrder,
    /// The last row that was settled so.
    settled_to: RowId,
    told: HashSet<RowId>,
    /// Rows that this process knows to be settled, in which epoch.
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
            duplicates: 0,
            deliveries: 0,
        }
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
        for row in &transaction.rows {
            let seen =
                RowSeen { aggregate: row.aggregate, live: true, invalid: row.invalid, ..RowSeen::default() };
            self.rows.insert(row.id, seen);
            self.aggregates.entry(row.aggregate).or_default().push(row.id);
        }
    }

    /// A row from before the slot, with `backlog = "skip"`.
    pub(crate) fn exempt(&mut self, row: RowId) {
        self.row(row).exempt = true;
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
        }
    }

    /// The server crashed, and the slot may be behind what it was.
    pub(crate) fn slot_forgot(&mut self) {
        self.sealed.clear();
    }

    // What the database sees.

    pub(crate) fn identified(&mut self, process: u64, identity: (u32, u32)) {
        let process = self.process(process);
        if process.identity.replace(identity).is_some_and(|before| before != identity) {
            process.done.clear();
        }
    }

    pub(crate) fn got_slot(&mut self, process: u64) {
        let others =
            self.processes.iter().filter(|(other, seen)| **other != process && seen.has_slot).count();
        if others > 0 {
            self.violated(format!("process {process} has the slot, and so has another"));
        }
        let process = self.process(process);
        process.had_slot = true;
        process.has_slot = true;
        process.left = None;
    }

    pub(crate) fn left_slot(&mut self, process: u64, knows: Option<Instant>) {
        let process = self.process(process);
        process.has_slot = false;
        process.left = knows;
    }

    pub(crate) fn session_began(&mut self, process: u64, session: SessionId) {
        let epoch = self.epoch;
        let process = self.process(process);
        process.epoch = epoch;
        process.session = session;
        process.handed = InOrder::default();
        process.held = InOrder::default();
        process.told.clear();
        process.in_flight.clear();
    }

    /// Only a process that has streamed remembers anything of a server.
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
        seen.handed.rows.push(row);
        // What is not behind the last row that the process knows to be settled it may skip. Rows are numbered as they commit.
        if row <= seen.settled_to {
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

    // What the broker sees.

    /// Nothing uncommitted is ever delivered, and rows of an aggregate are first delivered in commit order.
    pub(crate) fn delivered(&mut self, row: RowId) {
        let Some(seen) = self.rows.get_mut(&row) else {
            return self.violated(format!("row {row} was delivered and never committed"));
        };
        seen.delivered += 1;
        self.deliveries += 1;
        if seen.delivered > 1 {
            self.duplicates += 1;
            return;
        }
        if !seen.live {
            return;
        }
        let aggregate = seen.aggregate;
        for before in self.aggregates[&aggregate].iter().take_while(|before| **before != row) {
            let before_seen = &self.rows[before];
            let missing =
                before_seen.live && !before_seen.exempt && !before_seen.dropped && before_seen.delivered == 0;
            let traded = !self.per_aggregate && before_seen.refused;
            if missing && !traded {
                let what = format!("aggregate {aggregate}: row {row} was delivered before row {before}");
                return self.violated(what);
            }
        }
    }

    pub(crate) fn nacked(&mut self, row: RowId) {
        self.row(row).refused = true;
    }

    pub(crate) fn unroutable(&mut self, row: RowId) {
        self.row(row).refused = true;
    }

    pub(crate) fn returned(&mut self, process: u64, row: RowId) {
        self.row(row).returned_last = true;
        self.process(process).in_flight.remove(&row);
    }

    pub(crate) fn told_nacked(&mut self, process: u64, row: RowId) {
        self.process(process).in_flight.remove(&row);
    }

    pub(crate) fn dropped(&mut self, process: u64, connection: u64, row: RowId, now: Instant) {
        self.row(row).dropped = true;
        self.told_confirmed(process, connection, row, now);
    }

    pub(crate) fn told_confirmed(&mut self, process: u64, connection: u64, row: RowId, now: Instant) {
        let seen = self.row(row);
        seen.settled.push(Settled { by: process, at: now });
        seen.told_on = Some(connection);
        seen.returned_last = false;
        let ProcessSeen { handed, held, told, done, in_flight, epoch, settled_to, .. } =
            self.process(process);
        in_flight.remove(&row);
        told.insert(row);
        held.advance(|row| told.contains(row));
        *settled_to = held.rows[..held.settled].last().copied().unwrap_or(0).max(*settled_to);
        let before = handed.settled;
        handed.advance(|row| told.contains(row) || done.get(row) == Some(epoch));
        done.extend(handed.rows[before..handed.settled].iter().map(|row| (*row, *epoch)));
    }

    // What ends.

    pub(crate) fn asked_to_end(&mut self, process: u64) {
        self.process(process).asked_to_end = true;
    }

    /// The server has taken in a process's last position.
    pub(crate) fn finished(&mut self, process: u64) {
        let process = self.process(process);
        process.finished = process.asked_to_end;
    }
}

impl State {
    /// A message is handed to the broker.
    pub(crate) fn published(
        &mut self,
        process: u64,
        connection: u64,
        row: RowId,
        unanswered: &[(RowId, usize)],
    ) {
        let now = self.now();
        self.note(|| format!("process {process} publishes row {row}"));
        // While it does not read, it finds out with its next status update.
        let notices = self.scenario.relay.keepalive_interval + Duration::from_millis(10);
        let oracle = &mut self.oracle;
        let (epoch, per_aggregate) = (oracle.epoch, oracle.per_aggregate);
        let Some(seen) = oracle.rows.get(&row) else {
            return oracle.violated(format!("row {row} was published and never committed"));
        };
        let aggregate = seen.aggregate;
        let told_here = seen.told_on == Some(connection);

        // Limits hold.
        let count = unanswered.len();
        let bytes: usize = unanswered.iter().map(|(_, bytes)| bytes).sum();
        let largest = unanswered.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        if count > oracle.in_flight_max {
            let max = oracle.in_flight_max;
            oracle.violated(format!("{count} messages in flight, in_flight_max is {max}"));
        }
        // One message more is accepted, so that a large one can pass.
        if bytes - largest >= oracle.in_flight_bytes_max {
            let max = oracle.in_flight_bytes_max;
            oracle.violated(format!("{bytes} bytes in flight, in_flight_bytes_max is {max}"));
        }

        // The gate: one message of an aggregate at a time.
        let beside = unanswered.iter().map(|(other, _)| *other).find(|other| {
            *other != row && oracle.rows.get(other).is_some_and(|other| other.aggregate == aggregate)
        });
        if let (true, Some(other)) = (per_aggregate, beside) {
            oracle
                .violated(format!("rows {other} and {row} of aggregate {aggregate} are in flight together"));
        }

        // What a process knows to be settled it does not repeat, nor what a clean end has left behind.
        if told_here {
            oracle.violated(format!("row {row} is published again on the connection that confirmed it"));
        }
        // Whoever has not noticed yet that the slot is another's does not know of that end.
        let has_slot = oracle.processes.get(&process).is_some_and(|seen| seen.has_slot);
        if has_slot && oracle.sealed.contains(&row) {
            oracle.violated(format!("row {row} is repeated after a clean restart"));
        }
        let seen = oracle.process(process);
        seen.in_flight.insert(row, connection);
        let (done, had_slot) = (seen.done.get(&row) == Some(&epoch), seen.had_slot);
        let late = seen.left.is_some_and(|left| left + notices < now);
        if done {
            oracle.violated(format!("process {process} repeats row {row}, which it knows to be settled"));
        }

        // Of several instances only one publishes.
        if !had_slot || late {
            oracle.violated(format!("process {process} publishes row {row} and has no slot"));
        }
    }

    /// PostgreSQL is told a position: every row before it has to be confirmed, or dropped by policy.
    pub(crate) fn acknowledged(&mut self, process: u64, lsn: u64) {
        let oracle = &mut self.oracle;
        while let Some(transaction) = self.postgres.data.transactions.get(oracle.settled_before)
            && transaction.commit_lsn < lsn
        {
            for row in &transaction.rows {
                let seen = oracle.row(row.id);
                if seen.settled.is_empty() && !seen.exempt {
                    let what = format!(
                        "process {process} acknowledged {lsn}, but row {} of {} is not settled",
                        row.id, transaction.commit_lsn
                    );
                    return oracle.violated(what);
                }
            }
            oracle.settled_before += 1;
        }
    }

    /// The slot is made when all of the backlog is settled.
    pub(crate) fn slot_made_at(&mut self, process: u64, consistent_point: u64) {
        self.acknowledged(process, consistent_point);
    }

    /// The bound on duplicates: a crash now would repeat what is in flight, and of what was confirmed no more than the last
    /// 100 ms, or the rows of a transaction that is not complete. So the slot is that close behind.
    pub(crate) fn slot_must_keep_up(&mut self, process: u64) {
        let allowed =
            self.scenario.relay.status_interval + Duration::from_millis(self.scenario.status_latency_ms + 10);
        let Some(by) = self.now().checked_sub(allowed) else { return };
        let server = &self.postgres;
        let (Some(slot), Mode::Up) = (&server.data.slot, server.mode) else { return };
        let session = server.active.and_then(|id| server.sessions.get(&id));
        let Some(session) = session.filter(|s| s.process == process && s.link == Link::Up) else { return };
        let Some(streaming) = session.streaming.as_ref().filter(|streaming| streaming.since < by) else {
            return;
        };
        let transactions = &server.data.transactions;
        let next = transactions.partition_point(|transaction| transaction.commit_lsn < slot.confirmed_flush);
        let Some(behind) = transactions[next..].iter().find(|transaction| !transaction.rows.is_empty())
        else {
            return;
        };
        let heard = streaming.commits.get(&behind.commit_lsn).is_some_and(|at| *at < by);
        let oracle = &self.oracle;
        let Some(seen) = oracle.processes.get(&process) else { return };
        let settled = |id: &RowId| {
            let last = oracle.rows.get(id).and_then(|row| row.settled.iter().rfind(|s| s.by == process));
            last.is_some_and(|last| last.at < by) && seen.done.get(id) == Some(&seen.epoch)
        };
        if heard && behind.rows.iter().all(|row| settled(&row.id)) {
            let (at, commit_lsn) = (slot.confirmed_flush, behind.commit_lsn);
            let what =
                format!("the slot is still at {at} though {commit_lsn} is settled for more than {allowed:?}");
            self.oracle.violated(what);
        }
    }

    /// A process has ended by itself. A clean end leaves nothing that the next start would repeat.
    pub(crate) fn ended(&mut self, process: u64, ended: Ended) {
        let Some(slot) = &self.postgres.data.slot else { return };
        let flushed = slot.confirmed_flush;
        let oracle = &mut self.oracle;
        let Some(seen) = oracle.processes.get(&process) else { return };
        let halted = oracle.rows.values().any(|row| row.live && (row.returned_last || row.invalid));
        if ended != Ended::Drained || !seen.finished || halted {
            return;
        }
        // What the process knows, or would have learned on this connection. What was in flight when an earlier one was lost is
        // repeated whether there is a restart or not.
        let concerns = |id: &RowId| {
            seen.told.contains(id)
                || seen.in_flight.contains_key(id)
                || seen.epoch == oracle.epoch && seen.done.get(id) == Some(&seen.epoch)
        };
        let mut sealed = Vec::new();
        for transaction in &self.postgres.data.transactions {
            let covered = transaction.commit_lsn < flushed;
            for Row { id, .. } in &transaction.rows {
                let delivered = oracle.rows.get(id).is_some_and(|row| row.delivered > 0);
                if delivered && covered {
                    sealed.push(*id);
                } else if delivered && concerns(id) {
                    let what = format!("process {process} drained, and the next start repeats row {id}");
                    return oracle.violated(what);
                }
            }
        }
        oracle.sealed.extend(sealed);
    }

    /// What is missing from the end that every run must come to; `None` when nothing is.
    pub(crate) fn unfinished(&self) -> Option<String> {
        let data = &self.postgres.data;
        let mut invalid = false;
        for row in data.transactions.iter().flat_map(|transaction| &transaction.rows) {
            let seen = self.oracle.rows.get(&row.id)?;
            if row.invalid && !seen.exempt {
                invalid = true;
                break;
            }
            if seen.delivered == 0 && !seen.dropped && !seen.exempt {
                return Some(format!("row {} is not delivered", row.id));
            }
        }
        match &data.slot {
            // What stands before the invalid row is delivered, and the source halts there.
            _ if invalid => None,
            None => Some("there is no slot".to_owned()),
            Some(slot) if slot.confirmed_flush < data.wal_end => {
                Some(format!("the slot is at {}, the WAL ends at {}", slot.confirmed_flush, data.wal_end))
            }
            Some(_) => None,
        }
    }
}
