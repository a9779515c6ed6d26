//! Checks of the positions that PostgreSQL is told: nothing too early, and nothing too late.

use std::time::Duration;

use crate::{postgres::state::Mode, scenario::Scenario, wal::RowId, world::WorldState};

impl WorldState {
    /// PostgreSQL is told a position. Every row before it must be confirmed, parked or dropped by policy, and must be in the broker
    /// or in the table of parked rows.
    pub(crate) fn acknowledged(&mut self, process: u64, lsn: u64) {
        self.acknowledged_over_gap(process, lsn);
        let oracle = &mut self.oracle;
        let data = &self.postgres.data;
        while let Some(transaction) = data.transactions.get(oracle.settled_before)
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
                let somewhere = seen.delivered > 0 || data.parked.contains_key(&row.id);
                if !somewhere && !seen.dropped && !seen.exempt {
                    let what = format!(
                        "process {process} acknowledged {lsn}, but row {} is neither delivered nor parked",
                        row.id
                    );
                    return oracle.violated(what);
                }
            }
            oracle.settled_before += 1;
        }
    }

    /// The slot is created when all of the backlog is settled.
    pub(crate) fn slot_made_at(&mut self, process: u64, consistent_point: u64) {
        let gap = std::mem::take(&mut self.postgres.data.gap);
        self.acknowledged(process, consistent_point);
        self.postgres.data.gap = gap;
    }

    /// The bound on duplicates: a crash now would repeat the messages in flight and, of the confirmed ones, at most the last 100 ms
    /// or the rows of an incomplete transaction. The slot must be that close.
    pub(crate) fn slot_must_keep_up(&mut self, process: u64) {
        let allowed =
            self.scenario.relay.status_interval + Duration::from_millis(self.scenario.status_latency_ms + 10);
        let Some(at) = self.postgres.data.slot.as_ref().map(|slot| slot.confirmed_flush) else { return };
        self.must_keep_up("the slot", at, process, allowed);
    }

    /// The same bound for a crash of PostgreSQL, whichever process has the slot next. The state on disk is about a second behind. A
    /// cut connection is made again in that time, a hanging one is not.
    pub(crate) fn record_must_keep_up(&mut self) {
        let Scenario { relay, status_latency_ms, connect_ms, .. } = &*self.scenario;
        let after_a_cut = Duration::from_millis(600 + connect_ms);
        let slot_behind = relay.status_interval * 2 + Duration::from_millis(status_latency_ms + 10);
        let allowed = Duration::from_secs(1) + slot_behind + after_a_cut;
        let hangs = relay.server_silence_max * 2 + allowed;
        let data = &self.postgres.data;
        if self.postgres.hung_at.is_some_and(|at| at.elapsed() < hangs) || !data.gap.is_empty() {
            return;
        }
        let streams = self.postgres.active.and_then(|id| self.postgres.sessions.get(&id));
        let (Some(process), Some(at)) = (streams.map(|s| s.process), data.settled_for_good()) else { return };
        if data.holder_process() == Some(process) {
            self.must_keep_up("what a crash leaves of it", at, process, allowed);
        }
    }

    fn must_keep_up(&mut self, what: &str, at: u64, process: u64, allowed: Duration) {
        let Some(by) = self.now().checked_sub(allowed) else { return };
        let server = &self.postgres;
        let Mode::Up = server.mode else { return };
        let session = server.active.and_then(|id| server.sessions.get(&id));
        let Some(session) = session.filter(|s| s.process == process && s.has_client()) else { return };
        let Some(streaming) = session.streaming.as_ref().filter(|streaming| streaming.since < by) else {
            return;
        };
        let transactions = &server.data.transactions;
        let next = transactions.partition_point(|transaction| transaction.commit_lsn < at);
        let Some(behind) = transactions[next..].iter().find(|transaction| !transaction.rows.is_empty())
        else {
            return;
        };
        let heard = streaming.commits.get(&behind.commit_lsn).is_some_and(|at| *at < by);
        let oracle = &self.oracle;
        let Some(seen) = oracle.processes.get(&process) else { return };
        if seen.frozen || seen.thawed.is_some_and(|thawed| thawed >= by) {
            return;
        }
        let settled = |id: &RowId| {
            let last = oracle.rows.get(id).and_then(|row| row.settled.iter().rfind(|s| s.by == process));
            last.is_some_and(|last| last.at < by) && seen.done.get(id) == Some(&seen.epoch)
        };
        if heard && behind.rows.iter().all(|row| settled(&row.id)) {
            let commit_lsn = behind.commit_lsn;
            let what =
                format!("{what} is still at {at} though {commit_lsn} is settled for more than {allowed:?}");
            self.oracle.violated(what);
        }
    }
}
