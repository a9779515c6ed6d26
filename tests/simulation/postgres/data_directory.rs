//! The server's state on disk.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use outboxd::{message::ParkedRow, position::Lsn, slot::record::SlotRecord};

use crate::wal::{Row, RowId, Transaction};

/// Contents of the data directory. Copied with each copy of it.
#[derive(Clone, Debug)]
pub(crate) struct DataDirectory {
    pub(crate) system_id: u32,
    pub(crate) timeline: u32,
    pub(crate) wal_end: u64,
    pub(crate) transactions: Vec<Arc<Transaction>>,
    /// Rows that clean-up has removed from the table and that are still in WAL.
    removed: BTreeSet<RowId>,
    /// Earlier timelines, and the positions where they ended.
    pub(super) history: Vec<(u32, u64)>,
    /// The entry that adds the table to the publication, if there is one.
    pub(super) publication: Option<u32>,
    /// The table of slot records exists.
    pub(super) records: bool,
    pub(crate) record: Option<SlotRecord>,
    /// The process that wrote the record's holder.
    pub(super) recorded_by: u64,
    /// The table of parked rows exists.
    pub(super) parks: bool,
    pub(crate) parked: BTreeMap<RowId, Arc<ParkedRow>>,
    pub(crate) slot: Option<Slot>,
    /// Changes of the slot since it was the right one, in words that a halted source may use. While there are any, rows are missing
    /// from the slot.
    pub(crate) gap: Vec<&'static str>,
}

#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) confirmed_flush: u64,
    /// Position that remains after a crash.
    pub(crate) persisted: u64,
    /// WAL that the slot needs has been removed.
    pub(super) lost: bool,
}

impl Default for DataDirectory {
    fn default() -> Self {
        Self {
            system_id: 1,
            timeline: 1,
            wal_end: 1_000,
            transactions: Vec::new(),
            removed: BTreeSet::new(),
            history: Vec::new(),
            publication: None,
            records: false,
            record: None,
            recorded_by: 0,
            parks: false,
            parked: BTreeMap::new(),
            slot: None,
            gap: Vec::new(),
        }
    }
}

impl DataDirectory {
    /// Promotes a replica that has come so far.
    pub(crate) fn promote(&mut self) {
        self.history.push((self.timeline, self.wal_end));
        self.timeline += 1;
    }

    /// Drops the slot: a backup has none, and none came along with this replica or dump.
    pub(crate) fn leave_slot(&mut self, what: &'static str) {
        if self.slot.take().is_some() && self.has_recorded_slot() {
            self.gap.push(what);
        }
    }

    /// Returns whether the record names a slot, so that a process expects one.
    pub(crate) fn has_recorded_slot(&self) -> bool {
        self.record.as_ref().is_some_and(|record| !record.is_torn_down())
    }

    /// Returns whether there is no publication.
    pub(crate) fn is_unpublished(&self) -> bool {
        self.publication.is_none()
    }

    /// Returns the process that has the slot, according to the record.
    pub(crate) fn holder_process(&self) -> Option<u64> {
        self.record.as_ref()?.holder.as_ref().map(|_| self.recorded_by)
    }

    pub(crate) fn has_marked_gap(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.gap.is_some())
    }

    /// Position up to which rows stay settled after a crash, by the slot on disk, and by its record if that belongs to this server.
    pub(crate) fn settled_for_good(&self) -> Option<u64> {
        let slot = self.slot.as_ref()?;
        let record = self.record.as_ref().filter(|record| {
            let here = (record.system_id.as_str(), record.timeline)
                == (self.system_id.to_string().as_str(), self.timeline);
            here && record.as_written && record.gap.is_none()
        });
        Some(record.map_or(0, |record| record.confirmed_flush.0).max(slot.persisted))
    }

    /// Returns whether the record has the exact position where the slot was left.
    pub(crate) fn is_released(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.holder.is_none() && record.gap.is_none())
    }

    pub(super) fn tear_down_record(&mut self) {
        if let Some(record) = self.record.clone() {
            self.write_record(SlotRecord {
                confirmed_flush: Lsn::ZERO,
                confirmed_until: None,
                holder: None,
                gap: None,
                published_by: None,
                unproven: None,
                version: record.version + 1,
                ..record
            });
        }
    }

    /// Returns whether another entry than there publishes the table.
    pub(crate) fn publishes_otherwise_than(&self, other: &Self) -> bool {
        self.publication != other.publication
    }

    /// Creates the publication if there is none, each time with another entry.
    pub(super) fn publish(&mut self) {
        if self.publication.is_none() {
            self.wal_end += 60;
            self.publication = Some(self.wal_end as u32);
        }
    }

    /// Returns the rows that are in the table, in commit order.
    pub(super) fn table(&self) -> impl Iterator<Item = &Row> {
        let rows = self.transactions.iter().flat_map(|transaction| &transaction.rows);
        rows.filter(|row| !self.removed.contains(&row.id))
    }

    /// Removes a row from the table, which makes WAL. Returns `false` if the row is not there.
    pub(super) fn remove(&mut self, row: RowId) -> bool {
        let there = self.table().any(|one| one.id == row);
        if there {
            self.removed.insert(row);
            self.wal_end += 60;
        }
        there
    }

    /// Writes a row into the table of parked rows, which makes WAL, unless the row is there.
    pub(super) fn park(&mut self, row: RowId, parked: &Arc<ParkedRow>) {
        if let Entry::Vacant(place) = self.parked.entry(row) {
            place.insert(parked.clone());
            self.wal_end += 160;
        }
    }

    /// Removes a row from the table of parked rows, which makes WAL.
    pub(super) fn unpark(&mut self, row: RowId) -> bool {
        let there = self.parked.remove(&row).is_some();
        if there {
            self.wal_end += 60;
        }
        there
    }

    /// Takes a snapshot, which moves WAL on so that no two snapshots have one position.
    pub(super) fn mark_snapshot(&mut self) -> u64 {
        self.wal_end += 60;
        self.wal_end
    }

    /// Returns whether a later row of the aggregate is in the table and not parked, or the row itself is gone from the table.
    pub(super) fn may_be_overtaken(&self, row: RowId) -> bool {
        let Some(place) = self.table().position(|one| one.id == row) else { return true };
        let aggregate = self.table().find(|one| one.id == row).map(|one| one.aggregate);
        let mut later = self.table().skip(place + 1);
        later.any(|one| Some(one.aggregate) == aggregate && !self.parked.contains_key(&one.id))
    }

    /// Writes the slot's record, which makes WAL.
    pub(super) fn write_record(&mut self, record: SlotRecord) {
        self.record = Some(SlotRecord { as_written: true, ..record });
        self.wal_end += 120;
    }
}
