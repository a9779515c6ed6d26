//! Rows that are older than the slot: a temporary slot and its snapshot.

use std::collections::VecDeque;

use outboxd::{
    backfill::{
        backlog::BacklogError,
        snapshot::{RowOrder, SnapshotError},
    },
    message::{Column, OutboxRow, Timestamp},
    position::{Lsn, Position},
    postgres::statement::CatalogError,
    relay::database::{Backlog, Rows},
};
use pg_replication::WireError;

use super::{
    connection::closed, data_directory::Slot, replication::SimulatedReplication, sql::SimulatedSql,
    state::SessionId,
};
use crate::{
    link::Link,
    scenario::Sabotage,
    wal::{COLUMNS, Row, TEXT},
    world::World,
};

pub(crate) struct SimulatedBacklog {
    replication: SimulatedReplication,
    rows: SimulatedRows,
}

pub(crate) struct SimulatedRows {
    world: World,
    /// The session whose loss is noticed.
    session: SessionId,
    columns: Vec<Column>,
    rows: VecDeque<Row>,
    consistent_point: u64,
    read: u32,
    /// Open while the rows are read, if nothing else holds the connection.
    _connection: Option<SimulatedSql>,
}

impl SimulatedBacklog {
    /// Creates the temporary slot and its snapshot.
    pub(super) async fn begin(
        replication: SimulatedReplication,
        sql: SimulatedSql,
        slot: &str,
    ) -> Result<Self, BacklogError> {
        let failed = |cause| SnapshotError::from(statement_failed("creating the temporary slot", cause));
        sql.0.ask(|_| ()).await.map_err(failed)?;
        let (id, process) = (replication.0.id, replication.0.process);
        let (consistent_point, rows) = replication
            .0
            .ask(|state| {
                if state.postgres.backlog.is_some() {
                    return Err(BacklogError::Busy(slot.to_owned()));
                }
                if state.postgres.data.slot.is_some() {
                    return Err(BacklogError::AlreadyThere(slot.to_owned()));
                }
                state.postgres.backlog = Some(id);
                let data = &state.postgres.data;
                let rows: VecDeque<Row> = data.table().cloned().collect();
                let consistent_point = data.wal_end;
                state.oracle.got_slot(process);
                let count = rows.len();
                state.note(|| {
                    format!(
                        "postgres: process {process} has a backlog of {count} rows before {consistent_point}"
                    )
                });
                Ok((consistent_point, rows))
            })
            .await
            .map_err(failed)??;
        let (world, session) = (replication.0.world.clone(), id);
        let columns = columns();
        let rows =
            SimulatedRows { world, session, columns, rows, consistent_point, read: 0, _connection: None };
        Ok(SimulatedBacklog { replication, rows })
    }
}

impl SimulatedRows {
    /// Returns the rows that are in the table now, for a replay.
    pub(super) async fn of_now(sql: SimulatedSql) -> Result<Self, SnapshotError> {
        let process = sql.0.process;
        let (consistent_point, rows) = sql
            .0
            .ask(|state| {
                let data = &mut state.postgres.data;
                let consistent_point = data.mark_snapshot();
                let mut rows: VecDeque<Row> = data.table().cloned().collect();
                state.oracle.snapshot_taken(process, rows.iter().map(|row| (row.id, row.invalid)));
                let count = rows.len();
                state.note(|| format!("postgres: process {process} replays {count} rows"));
                if state.scenario.sabotage == Some(Sabotage::SnapshotLosesRow) {
                    rows.pop_back();
                }
                (consistent_point, rows)
            })
            .await
            .map_err(|cause| statement_failed("reading the rows", cause))?;
        let (world, session) = (sql.0.world.clone(), sql.0.id);
        let columns = columns();
        Ok(Self { world, session, columns, rows, consistent_point, read: 0, _connection: Some(sql) })
    }
}

fn statement_failed(doing: &'static str, cause: WireError) -> CatalogError {
    CatalogError::Statement { doing, cause }
}

fn columns() -> Vec<Column> {
    COLUMNS.map(|name| Column { name: name.to_owned(), type_oid: TEXT }).to_vec()
}

impl Backlog for SimulatedBacklog {
    type Replication = SimulatedReplication;
    type Rows = SimulatedRows;

    fn rows(&mut self) -> &mut SimulatedRows {
        &mut self.rows
    }

    fn consistent_point(&self) -> Lsn {
        Lsn(self.rows.consistent_point)
    }

    async fn finish(self) -> Result<SimulatedReplication, BacklogError> {
        let point = self.rows.consistent_point;
        let process = self.replication.0.process;
        let made = self.replication.0.ask(|state| {
            if state.postgres.data.slot.is_some() {
                return Err(BacklogError::AlreadyThere("slot".to_owned()));
            }
            state.slot_made_at(process, point);
            state.slot_is_made_by(process);
            state.postgres.data.slot = Some(Slot::at(point));
            state.postgres.data.gap.clear();
            state.postgres.backlog = None;
            // Another process may be faster before this one streams.
            let now = state.now();
            state.oracle.left_slot(process, Some(now));
            state.note(|| format!("postgres: process {process} made the slot at {point}"));
            Ok(())
        });
        let failed = |cause| SnapshotError::from(statement_failed("creating the permanent slot", cause));
        made.await.map_err(failed)??;
        Ok(self.replication)
    }
}

impl Rows for SimulatedRows {
    fn order(&self) -> RowOrder {
        RowOrder::Sequence
    }

    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn taken_at(&self) -> Timestamp {
        Timestamp(0)
    }

    async fn next(&mut self) -> Result<Option<OutboxRow>, SnapshotError> {
        if self.world.look(|state| state.link(self.session)) == Link::Cut {
            return Err(statement_failed("reading the backlog", closed()).into());
        }
        if self.read % 16 == 7 {
            self.world.pause(0..=3).await;
        }
        let Some(row) = self.rows.pop_front() else { return Ok(None) };
        let position = Position { commit_lsn: Lsn(self.consistent_point - 1), index: self.read };
        self.read += 1;
        Ok(Some(OutboxRow { position, committed_at: Timestamp(0), values: row.values() }))
    }
}
