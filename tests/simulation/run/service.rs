//! The service that writes.

use std::sync::Arc;

use super::Run;
use crate::{
    postgres::state::Mode,
    wal::{Row, RowId, Transaction},
};

impl Run {
    /// Writes one transaction of the service.
    pub(super) fn write(&mut self) {
        let scenario = self.scenario.clone();
        let (rows, rolled_back) = self.world.look(|state| {
            let count = if state.one_in(6) { 0 } else { state.rng.u32(1..=scenario.rows_max) };
            let rows = (0..count).map(|_| Row {
                id: 0,
                aggregate: state.rng.u8(0..scenario.aggregates),
                payload_bytes: state.rng.u16(0..=scenario.payload_max),
                invalid: scenario.parks_invalid() && state.one_in(15),
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

    pub(super) fn write_rows(&mut self, mut rows: Vec<Row>) {
        for row in &mut rows {
            self.last_row += 1;
            row.id = self.last_row;
        }
        self.world.change(|state| {
            if state.postgres.mode == Mode::Down {
                return;
            }
            let data = &mut state.postgres.data;
            // The commit record may follow at once, if the rows were written before the last commit.
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
}
