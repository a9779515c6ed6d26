//! A connection for plain SQL.

use std::{sync::Arc, time::Duration};

use outboxd::{
    cleanup::{CleanupError, Pass, Seen, SeenRow, Statements},
    message::{ColumnNames, Outline, ParkReason, ParkedRow, Timestamp},
    parking::parked_rows::{Lock, ParkedEntry, ParkedValues},
    position::{Lsn, Position},
    postgres::{Cleanup, SourceDatabase, TableName, outbox_table::TableKind, statement::CatalogError},
    preflight::{Facts, Problem, facts::family::UnsentTables},
    relay::database::Sql,
    slot::{
        creation::SlotError,
        facts::SlotFacts,
        open_transactions::OpenTransaction,
        publication::{PublishedBy, Publishing},
        record::{Confirmed, SlotRecord},
    },
};

use super::{
    connection::{Connection, closed, server_error},
    data_directory::Slot,
    facts::{facts, publishing, slot_facts},
};
use crate::{
    link::Link,
    scenario::Sabotage,
    wal::{OUTBOX, RowId},
    world::WorldState,
};

pub(crate) struct SimulatedSql(pub(super) Connection);

impl SimulatedSql {
    pub(super) async fn run<T>(
        &self,
        doing: &'static str,
        answer: impl FnMut(&mut WorldState) -> T,
    ) -> Result<T, CatalogError> {
        self.0.ask(answer).await.map_err(|cause| CatalogError::Statement { doing, cause })
    }

    async fn update_record(
        &self,
        holder: &str,
        confirmed: Confirmed,
        from_now_on: Option<&str>,
    ) -> Result<bool, CatalogError> {
        self.run("writing the slot's record", |state| {
            let data = &mut state.postgres.data;
            let (Some(record), Some(slot)) = (data.record.clone(), &data.slot) else { return false };
            let flush = confirmed.flush.min(Lsn(slot.confirmed_flush));
            if record.holder.as_deref() != Some(holder) || flush < record.confirmed_flush {
                return false;
            }
            data.write_record(SlotRecord {
                confirmed_flush: flush,
                confirmed_until: confirmed.until.or(record.confirmed_until),
                holder: from_now_on.map(str::to_owned),
                version: record.version + 1,
                ..record
            });
            flush == confirmed.flush
        })
        .await
    }
}

impl Sql for SimulatedSql {
    async fn facts(&self, database: &SourceDatabase) -> Result<Facts, CatalogError> {
        self.run("reading the catalog", |state| facts(state, &database.slot)).await
    }

    async fn mend_publication(&self, _: &SourceDatabase, _: TableKind) -> Result<(), CatalogError> {
        self.run("creating the publication", |state| state.postgres.data.publish()).await
    }

    async fn publishing(&self, _: &SourceDatabase) -> Result<Publishing, CatalogError> {
        self.run("looking at the publication", publishing).await
    }

    async fn unpublished_tables(&self, _: &TableName) -> Result<Option<UnsentTables>, CatalogError> {
        Ok(None)
    }

    async fn parked_elsewhere(&self, _: &SourceDatabase) -> Result<Option<Problem>, CatalogError> {
        Ok(None)
    }

    async fn table_is_empty(&self, _: &TableName, _: TableKind) -> Result<bool, CatalogError> {
        self.run("looking for a row", |state| state.postgres.data.table().next().is_none()).await
    }

    async fn create_slot(&self, slot: &str, _: bool) -> Result<(), SlotError> {
        let process = self.0.process;
        self.run("creating the slot", |state| {
            let data = &mut state.postgres.data;
            if data.slot.is_some() {
                return Err(SlotError::Exists(slot.to_owned()));
            }
            data.slot = Some(Slot::at(data.wal_end));
            state.slot_is_made_by(process);
            let data = &state.postgres.data;
            // Rows that were committed before are not relayed.
            for row in data.transactions.iter().flat_map(|transaction| &transaction.rows) {
                state.oracle.exempt(row.id);
            }
            Ok(())
        })
        .await?
    }

    async fn awaited_transactions(&self, _: &str) -> Result<Vec<OpenTransaction>, CatalogError> {
        self.run("looking for open transactions", |_| Vec::new()).await
    }

    async fn drop_slot(&self, slot: &str) -> Result<bool, SlotError> {
        self.run("dropping the slot", |state| {
            if state.postgres.active.is_some() {
                return Err(SlotError::InUse { slot: slot.to_owned(), holder: None });
            }
            // Confirmed messages are published again, on purpose.
            state.oracle.slot_forgot();
            Ok(state.postgres.data.slot.take().is_some())
        })
        .await?
    }

    async fn create_records(&self, _: &SourceDatabase) -> Result<(), CatalogError> {
        self.run("creating the table of slot records", |state| state.postgres.data.records = true).await
    }

    async fn create_parked(&self, _: &SourceDatabase) -> Result<(), CatalogError> {
        self.run("creating the table of parked rows", |state| state.postgres.data.parks = true).await
    }

    async fn park(&self, _: &SourceDatabase, rows: &[Arc<ParkedRow>]) -> Result<Lsn, CatalogError> {
        const DOING: &str = "writing into the table of parked rows";
        let process = self.0.process;
        self.run(DOING, |state| {
            let failed = |cause| Err(CatalogError::Statement { doing: DOING, cause });
            if state.postgres.parks_nothing || !state.peace && state.one_in(8) {
                state.postgres.parks_refused += 1;
                return failed(server_error("ERROR", "53100", "No space left on device"));
            }
            let unheard = !state.peace && state.one_in(16);
            for (id, row) in rows.iter().filter_map(|row| Some((row_id(row)?, row))) {
                if unheard {
                    state.postgres.data.park(id, row);
                    continue;
                }
                if state.scenario.sabotage != Some(Sabotage::ForgetParked) {
                    state.postgres.data.park(id, row);
                }
                state.told_parked(process, id);
            }
            if unheard {
                return failed(closed());
            }
            Ok(Lsn(state.postgres.data.wal_end))
        })
        .await?
    }

    async fn count_parked(&self, _: &SourceDatabase) -> Result<Option<u64>, CatalogError> {
        self.run("counting the parked rows", |state| Some(state.postgres.data.parked.len() as u64)).await
    }

    async fn lock_parked(&self, _: &SourceDatabase) -> Result<Lock, CatalogError> {
        let id = self.0.id;
        self.run("locking the parked rows", |state| {
            let forgets = state.scenario.sabotage == Some(Sabotage::ForgetParkedLock);
            let server = &mut state.postgres;
            if !forgets {
                server.parked_lock.get_or_insert(id);
            }
            let held = forgets || server.parked_lock == Some(id);
            if held { Lock::Held } else { Lock::Taken(None) }
        })
        .await
    }

    async fn list_parked(&self, _: &SourceDatabase) -> Result<Vec<ParkedEntry>, CatalogError> {
        let (id, process) = (self.0.id, self.0.process);
        self.run("reading the parked rows", |state| {
            let server = &state.postgres;
            let mut rows: Vec<_> = server.data.parked.iter().collect();
            rows.sort_by_key(|(_, parked)| parked.kept.row().position);
            let listed = rows.iter().map(|(row, parked)| (parked.kept.row().position, **row)).collect();
            state.oracle.parked_listed(process, listed, server.parked_lock == Some(id));
            if state.scenario.sabotage == Some(Sabotage::ParkedListReversed) {
                rows.reverse();
            }
            rows.into_iter().map(|(_, parked)| entry(parked)).collect()
        })
        .await
    }

    async fn load_parked(
        &self,
        _: &SourceDatabase,
        entry: &ParkedEntry,
    ) -> Result<Option<ParkedValues>, CatalogError> {
        self.run("reading a parked row", |state| {
            let (_, parked) = state.parked_at(entry.position)?;
            Some(ParkedValues { columns: parked.kept.columns().to_vec(), row: parked.kept.row().clone() })
        })
        .await
    }

    async fn overtaken(
        &self,
        database: &SourceDatabase,
        _: &ColumnNames,
        entry: &ParkedEntry,
        _: &ParkedValues,
    ) -> Result<Option<String>, CatalogError> {
        if database.cleanup.is_some() {
            return Ok(Some("clean-up removes rows".to_owned()));
        }
        let process = self.0.process;
        self.run("looking for later rows of the parked row's aggregate", |state| {
            let overlooks = state.scenario.sabotage == Some(Sabotage::OverlookOvertaking);
            let (row, _) = state.parked_at(entry.position)?;
            let found = state.postgres.data.may_be_overtaken(row);
            state.oracle.looked_for_later_rows(process, row, found);
            (found && !overlooks).then(|| "the table has a later row of its aggregate".to_owned())
        })
        .await
    }

    async fn remove_parked(&self, _: &SourceDatabase, position: Position) -> Result<bool, CatalogError> {
        const DOING: &str = "removing a parked row";
        let process = self.0.process;
        self.run(DOING, |state| {
            let Some((row, _)) = state.parked_at(position) else { return Ok(false) };
            state.oracle.parked_row_removed(process, row);
            let removed = state.postgres.data.unpark(row);
            state.note(|| format!("process {process} has removed parked row {row}"));
            // The commit happens, and the client is not told.
            if !state.peace && state.one_in(16) {
                return Err(CatalogError::Statement { doing: DOING, cause: closed() });
            }
            Ok(removed)
        })
        .await?
    }

    async fn keep_parked(
        &self,
        _: &SourceDatabase,
        position: Position,
        reason: &ParkReason,
    ) -> Result<(), CatalogError> {
        self.run("updating the reason of a parked row", |state| {
            let Some((row, parked)) = state.parked_at(position) else { return };
            let parked = ParkedRow { kept: parked.kept.clone(), reason: reason.clone() };
            state.postgres.data.parked.insert(row, Arc::new(parked));
        })
        .await
    }

    async fn limit_statements(&self, _: Duration) -> Result<(), CatalogError> {
        self.run("limiting statements", |_| ()).await
    }

    async fn write_record(&self, _: &SourceDatabase, record: &SlotRecord) -> Result<(), CatalogError> {
        let process = self.0.process;
        self.run("writing the slot's record", |state| {
            state.postgres.data.recorded_by = process;
            state.postgres.data.write_record(record.clone());
        })
        .await
    }

    async fn claim_record(
        &self,
        _: &SourceDatabase,
        record: &SlotRecord,
        pid: i32,
    ) -> Result<bool, CatalogError> {
        let process = self.0.process;
        self.run("writing the slot's record", |state| {
            let streams = state.postgres.active.is_some_and(|active| active as i32 == pid);
            if streams {
                state.postgres.data.recorded_by = process;
                state.postgres.data.write_record(record.clone());
            }
            streams
        })
        .await
    }

    async fn mark_record(
        &self,
        _: &SourceDatabase,
        found: Option<i64>,
        marked: &SlotRecord,
    ) -> Result<(), CatalogError> {
        self.run("marking the slot's record", |state| {
            let data = &mut state.postgres.data;
            if data.record.as_ref().map(|record| record.version) == found {
                data.write_record(marked.clone());
            }
        })
        .await
    }

    async fn note_record(
        &self,
        _: &SourceDatabase,
        holder: &str,
        confirmed: Confirmed,
    ) -> Result<bool, CatalogError> {
        if self.0.world.look(|state| state.scenario.sabotage == Some(Sabotage::RecordSeldom)) {
            return Ok(true);
        }
        self.update_record(holder, confirmed, Some(holder)).await
    }

    async fn release_record(
        &self,
        _: &SourceDatabase,
        holder: &str,
        confirmed: Confirmed,
    ) -> Result<(), CatalogError> {
        self.update_record(holder, confirmed, None).await.map(drop)
    }

    async fn slot_progress(&self, slot: &str) -> Result<Option<SlotFacts>, CatalogError> {
        self.run("reading the slot", |state| slot_facts(state, slot)).await
    }

    async fn prepare_cleanup(
        &self,
        _: &SourceDatabase,
        _: Cleanup,
        _: &ColumnNames,
        _: PublishedBy,
    ) -> Result<Statements, CleanupError> {
        Ok(Statements::default())
    }

    async fn search_rows(
        &self,
        _: &SourceDatabase,
        _: &Statements,
        pass: Pass,
    ) -> Result<Seen, CleanupError> {
        const ROWS: usize = 100;
        let skip = if let Pass::Rows(stayed) = pass { stayed } else { 0 };
        let seen = |state: &mut WorldState| {
            let rows = state.postgres.data.table().skip(skip).take(ROWS);
            rows.map(|row| SeenRow { table: OUTBOX, place: row.id.to_string(), transaction: String::new() })
                .collect()
        };
        let rows: Vec<SeenRow> = self.run("searching for rows to remove", seen).await?;
        let then = if rows.len() == ROWS { Pass::Rows(skip + ROWS) } else { Pass::Begin };
        let end = |state: &mut WorldState| match state.scenario.sabotage {
            Some(Sabotage::RemoveAtOnce) => Lsn::ZERO,
            _ => Lsn(state.postgres.data.wal_end),
        };
        Ok(Seen { rows, committed_before: self.run("reading the end of WAL", end).await?, then })
    }

    async fn remove_rows(&self, _: &Statements, rows: &[SeenRow]) -> Result<u64, CleanupError> {
        let removed = self.run("removing confirmed rows", |state| {
            let rows = rows.iter().map(|row| row.place.parse().expect("a row's number"));
            rows.filter(|row| {
                let removed = state.postgres.data.remove(*row);
                if removed {
                    state.oracle.removed(*row);
                }
                removed
            })
            .count()
        });
        Ok(removed.await? as u64)
    }

    fn is_closed(&self) -> bool {
        self.0.world.look(|state| state.link(self.0.id) == Link::Cut)
    }
}

fn row_id(row: &ParkedRow) -> Option<RowId> {
    row.kept.outline().message_id?.parse().ok()
}

fn entry(ParkedRow { kept, reason }: &ParkedRow) -> ParkedEntry {
    let Outline { message_id, aggregate_type, aggregate_id, event_type } = kept.outline();
    let (exchange, routing_key) =
        reason.route.as_ref().map(|route| (route.exchange.clone(), route.routing_key.clone())).unzip();
    ParkedEntry {
        position: kept.row().position,
        cause: reason.cause.to_string(),
        reason: reason.text.clone(),
        message_id,
        aggregate_type,
        aggregate_id,
        event_type,
        exchange,
        routing_key,
        committed_at: kept.row().committed_at,
        parked_at: Timestamp(0),
    }
}

impl WorldState {
    fn parked_at(&self, position: Position) -> Option<(RowId, Arc<ParkedRow>)> {
        let parked = &self.postgres.data.parked;
        let (row, parked) = parked.iter().find(|(_, parked)| parked.kept.row().position == position)?;
        Some((*row, parked.clone()))
    }
}
