//! What becomes of a slot that is not the one that was there: nothing goes over the gap, and its reason is named.

use super::Oracle;
use crate::{wal::RowId, world::WorldState};

impl Oracle {
    /// What a halted source may say of the slot: what has happened to it in this run, or to the server.
    pub(crate) fn halted_for(&mut self, process: u64, slot: &str, reason: &str) {
        let happened = self.gaps.iter().copied().any(|cause| reason.contains(cause));
        // The slot's own check may have found it lost just before everything was torn down.
        let says_where =
            ["rows committed after ", "Rows committed after "].iter().any(|words| reason.contains(words));
        let named = reason.contains(slot) && says_where;
        if !happened || !named {
            self.violated(format!("process {process} halts, and names no gap that there is: {reason}"));
        }
    }

    /// This may be what a source halts for.
    pub(crate) fn may_halt_for(&mut self, causes: &[&'static str]) {
        self.gaps.extend(causes);
    }
}

impl WorldState {
    /// Nothing is read from a slot that is another one.
    pub(crate) fn read_over_gap(&mut self, process: u64, row: RowId) {
        if let Some(what) = self.must_be_left_alone(process) {
            self.oracle.violated(format!("process {process} reads row {row} from a slot that {what}"));
        }
    }

    /// Nothing is acknowledged there either: the gap would be closed.
    pub(super) fn acknowledged_over_gap(&mut self, process: u64, lsn: u64) {
        if let Some(what) = self.must_be_left_alone(process).filter(|_| lsn > 0) {
            self.oracle.violated(format!("process {process} acknowledges {lsn} to a slot that {what}"));
        }
    }

    /// Why nobody, or not this process, may use the slot that there is.
    fn must_be_left_alone(&self, process: u64) -> Option<String> {
        let gap = &self.postgres.data.gap;
        if !gap.is_empty() {
            return Some(gap.join(", "));
        }
        let recovered = self.oracle.recovered_by_another(process);
        recovered.then(|| "is being made by `outboxd recover`".to_owned())
    }
}
