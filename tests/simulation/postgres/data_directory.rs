//! What a server has on disk.

use std::{collections::BTreeSet, sync::Arc};

use outboxd::postgres::slot_record::SlotRecord;

use crate::wal::{RowId, Transaction};

/// What is in the data directory, and goes where a copy of it goes.
#[derive(Clone, Debug)]
pub(crate) struct DataDirectory {
    pub(crate) system_id: u32,
    pub(crate) timeline: u32,
    pub(crate) wal_end: u64,
    pub(crate) transactions: Vec<Arc<Transaction>>,
    /// Earlier timelines, and where they were left.
    pub(super) history: Vec<(u32, u64)>,
    pub(super) publication: bool,
    /// There is a table of slot records.
    pub(super) records: bool,
    pub(crate) record: Option<SlotRecord>,
    /// There is a table of parked rows.
    pub(super) parks: bool,
    pub(crate) parked: BTreeSet<RowId>,
    pub(crate) slot: Option<Slot>,
}

#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) confirmed_flush: u64,
    /// What a crash leaves of it.
    pub(crate) persisted: u64,
}

impl Default for DataDirectory {
    fn default() -> Self {
        Self {
            system_id: 1,
            timeline: 1,
            wal_end: 1_000,
            transactions: Vec::new(),
            history: Vec::new(),
            publication: false,
            records: false,
            record: None,
            parks: false,
            parked: BTreeSet::new(),
            slot: None,
        }
    }
}

impl DataDirectory {
    /// A replica that has come so far takes over.
    pub(crate) fn promote(&mut self) {
        self.history.push((self.timeline, self.wal_end));
        self.timeline += 1;
    }

    /// Writes a row into the table of parked ones, which makes WAL; nothing if it is there.
    pub(super) fn park(&mut self, row: RowId) {
        if self.parked.insert(row) {
            self.wal_end += 160;
        }
    }

    /// Writes the slot's record, which makes WAL.
    pub(super) fn write_record(&mut self, record: SlotRecord) {
        self.record = Some(record);
        self.wal_end += 120;
    }
}
