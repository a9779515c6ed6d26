//! Checks of a slot that is not the earlier one: no process continues over the gap, and the reason is named.

use super::Oracle;
use crate::{wal::RowId, world::WorldState};

impl Oracle {
    /// A source may only halt for a slot with a cause that occurred in this run.
    pub(crate) fn halted_for(&mut self, process: u64, slot: &str, reason: &str) {
        let happened = self.gaps.iter().copied().any(|cause| reason.contains(cause));
        // The slot may have been found lost just before everything was torn down.
        let says_where =
            ["rows committed after ", "Rows committed after "].iter().any(|words| reason.contains(words));
        let named = reason.contains(slot) && says_where;
        if !happened || !named {
            self.violated(format!("process {process} halts, and names no gap that there is: {reason}"));
        }
    }

    /// Records causes that a source may halt for.
    pub(crate) fn may_halt_for(&mut self, causes: &[&'static str]) {
        self.gaps.extend(causes);
    }
}

impl WorldState {
    /// No process reads from a slot that is another one.
    pub(crate) fn read_over_gap(&mut self, process: u64, row: RowId) {
        if let Some(what) = self.must_be_left_alone(process) {
            self.oracle.violated(format!("process {process} reads row {row} from a slot that {what}"));
        }
    }

    /// No process acknowledges there either, because that would hide the gap.
    pub(super) fn acknowledged_over_gap(&mut self, process: u64, lsn: u64) {
        if let Some(what) = self.must_be_left_alone(process).filter(|_| lsn > 0) {
            self.oracle.violated(format!("process {process} acknowledges {lsn} to a slot that {what}"));
        }
    }

    /// Returns why no process, or not this one, may use the present slot.
    fn must_be_left_alone(&self, process: u64) -> Option<String> {
        let gap = &self.postgres.data.gap;
        if !gap.is_empty() {
            return Some(gap.join(", "));
        }
        let recovered = self.oracle.recovered_by_another(process);
        recovered.then(|| "is being made by `outboxd recover`".to_owned())
    }
}
