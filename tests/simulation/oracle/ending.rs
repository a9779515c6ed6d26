//! The end of a process, and of every run.

use outboxd::relay::Ended;

use super::Oracle;
use crate::{
    wal::{Row, RowId},
    world::WorldState,
};

impl Oracle {
    pub(crate) fn asked_to_end(&mut self, process: u64) {
        self.process(process).asked_to_end = true;
    }

    /// The server has stored a process's last position.
    pub(crate) fn finished(&mut self, process: u64) {
        let process = self.process(process);
        process.finished = process.asked_to_end;
    }
}

impl WorldState {
    /// A process has ended by itself. After a clean end, the next start repeats nothing.
    pub(crate) fn ended(&mut self, process: u64, ended: Ended) {
        let Some(slot) = &self.postgres.data.slot else { return };
        let flushed = slot.confirmed_flush;
        let oracle = &mut self.oracle;
        let Some(seen) = oracle.processes.get(&process) else { return };
        let halted =
            oracle.rows.values().any(|row| row.live && (row.returned_last || row.invalid && !row.parked));
        if ended != Ended::Drained || !seen.finished || halted {
            return;
        }
        // Rows that the process knows, or would have learned about on this connection. Messages in flight on an earlier, lost
        // connection are repeated with or without a restart.
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

    /// Returns what a run still lacks at its end. `None` if it is complete.
    pub(crate) fn unfinished(&self) -> Option<String> {
        let data = &self.postgres.data;
        let mut invalid = false;
        for row in data.transactions.iter().flat_map(|transaction| &transaction.rows) {
            let seen = self.oracle.rows.get(&row.id)?;
            // A row from before the slot that is skipped stops `recover`, which publishes the table.
            let recovers = !data.gap.is_empty() || data.has_marked_gap();
            let stands_in_the_way = !seen.exempt || recovers;
            if row.invalid && stands_in_the_way && !self.scenario.parks_invalid() {
                invalid = true;
                break;
            }
            let parked = data.parked.contains_key(&row.id);
            if seen.delivered == 0 && !seen.dropped && !seen.exempt && !parked {
                return Some(format!("row {} is neither delivered nor parked", row.id));
            }
        }
        match &data.slot {
            // Rows before the invalid row are delivered, and the source halts there.
            _ if invalid => None,
            _ if !data.gap.is_empty() => Some(format!("the slot {}", data.gap.join(", "))),
            None => Some("there is no slot".to_owned()),
            Some(slot) if slot.confirmed_flush < data.wal_end => {
                Some(format!("the slot is at {}, the WAL ends at {}", slot.confirmed_flush, data.wal_end))
            }
            Some(_) => None,
        }
    }
}
