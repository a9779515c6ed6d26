//! The server, as one process reaches it.

use std::sync::Arc;

use diagnostics::remedy::Remedy;
use outboxd::{
    backfill::{
        backlog::BacklogError,
        snapshot::{Selection, SnapshotError},
    },
    message::ColumnNames,
    position::Lsn,
    postgres::{SourceDatabase, statement::CatalogError},
    relay::database::{Database, Replication},
    slot::{continuity::SlotHistory, history::SlotHistoryError, publication::Publishing},
};
use pg_replication::{ConnectError, ReplicationError};

use super::{
    backlog::{SimulatedBacklog, SimulatedRows},
    connection::{Connection, command_failed},
    facts::{publishing, slot_facts},
    replication::SimulatedReplication,
    sql::SimulatedSql,
};
use crate::{
    scenario::Sabotage,
    world::{World, WorldState},
};

/// The server, as one process reaches it.
#[derive(Clone)]
pub(crate) struct SimulatedDatabase {
    pub(crate) world: World,
    pub(crate) process: u64,
    pub(crate) options: Arc<SourceDatabase>,
}

impl Database for SimulatedDatabase {
    type Sql = SimulatedSql;
    type Replication = SimulatedReplication;
    type Backlog = SimulatedBacklog;
    type Rows = SimulatedRows;

    fn options(&self) -> &SourceDatabase {
        &self.options
    }

    async fn connect_sql(&self, _: &str) -> Result<SimulatedSql, ConnectError> {
        let connection = Connection::open(&self.world, self.process).await;
        connection.map(SimulatedSql).map_err(|cause| ConnectError {
            host: "simulated".into(),
            cause,
            earlier: Vec::new(),
            remedy: Box::new(Remedy::by_time("wait")),
        })
    }

    async fn connect_replication(&self, _: &str) -> Result<SimulatedReplication, ReplicationError> {
        Ok(SimulatedReplication(self.connect_sql("").await?.0))
    }

    async fn begin_backlog(
        &self,
        replication: SimulatedReplication,
        sql: SimulatedSql,
        _: &ColumnNames,
        _: &Selection,
        _: bool,
    ) -> Result<SimulatedBacklog, BacklogError> {
        SimulatedBacklog::begin(replication, sql, &self.options.slot).await
    }

    async fn snapshot(
        &self,
        sql: SimulatedSql,
        _: &ColumnNames,
        _: &Selection,
    ) -> Result<SimulatedRows, SnapshotError> {
        SimulatedRows::of_now(sql).await
    }

    async fn slot_history(
        &self,
        sql: &SimulatedSql,
        replication: &mut SimulatedReplication,
        _: Option<u32>,
    ) -> Result<SlotHistory, SlotHistoryError> {
        let server = replication.identify_system().await?;
        let left = |state: &mut WorldState| {
            state.postgres.data.history.iter().map(|(timeline, left)| (*timeline, Lsn(*left))).collect()
        };
        let timelines = replication.0.ask(left).await.map_err(command_failed)?;
        let mut history = SlotHistory {
            server,
            timelines,
            record: None,
            slot: None,
            publishing: Publishing::NoTable,
            published_before: None,
        };
        self.look_again(sql, &mut history).await?;
        Ok(history)
    }

    async fn look_again(&self, sql: &SimulatedSql, history: &mut SlotHistory) -> Result<(), CatalogError> {
        let slot = &self.options.slot;
        history.published_before = history.publishing.by();
        (history.record, history.slot, history.publishing) = sql
            .run("reading the slot's record", |state| {
                let sabotage = state.scenario.sabotage;
                let forgets = sabotage == Some(Sabotage::ForgetRecord);
                let mut record = state.postgres.data.record.clone().filter(|_| !forgets);
                if let Some(record) = &mut record {
                    record.as_written &= sabotage != Some(Sabotage::DistrustRecord);
                    record.as_written |= sabotage == Some(Sabotage::TrustAnyRecord);
                }
                (record, slot_facts(state, slot), publishing(state))
            })
            .await?;
        history.server.xlogpos =
            sql.run("reading the end of WAL", |state| Lsn(state.postgres.data.wal_end)).await?;
        // A standby whose connection broke may meet the server here, before it takes the slot, rather than in `history`.
        self.world.look(|state| state.postgres.judged.push(self.process));
        Ok(())
    }
}
