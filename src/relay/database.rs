//! What the relay asks of a database, and that PostgreSQL answers it.
//!
//! The room `postgres` answers in production, a simulated server in `tests/simulation`; which one is known when the relay
//! is compiled for it, so the seam costs nothing. An implementation keeps the promises of the function of
//! [`postgres`](crate::postgres) that answers in production, see below: what is cancel-safe, what comes back after which
//! error.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    ledger::ConfirmedLsn,
    outbox::{Column, ColumnNames, OutboxRow, ParkedRow, Timestamp},
    position::Lsn,
    postgres::{
        SourceDatabase,
        backlog::{self, BacklogError},
        catalog::{self, CatalogError, Facts, SlotFacts, TableKind},
        cleanup::{self, Cleanup, CleanupError, Pass, Seen, SeenRow, Statements},
        continuity::SlotHistory,
        error::ConnectError,
        family::{self, Unpublished},
        left_behind,
        open_transactions::{self, OpenTransaction},
        parked_table,
        preflight::Problem,
        publication::{self, PublishedBy, Publishing},
        replication::{
            BeforeStream, ReplicationConnection, ReplicationError, ReplicationEvent, ReplicationStream,
            SystemIdentity,
        },
        slot_history::SlotHistoryError,
        slot_record::{self, Confirmed, SlotRecord},
        slot_use::{self, SlotUse},
        snapshot::{RowOrder, Selection, SnapshotError, SnapshotRows},
    },
};

/// A database that can be reached.
pub trait Database: Clone + Send + Sync + 'static {
    /// A connection for plain SQL.
    type Sql: Sql;
    /// A connection for replication commands.
    type Replication: Replication;
    /// Rows that are older than the slot.
    type Backlog: Backlog<Replication = Self::Replication>;

    /// The names of slot, publication and table, and what else the configuration says.
    fn options(&self) -> &SourceDatabase;

    /// Connects for plain SQL.
    fn connect_sql(
        &self,
        application_name: &str,
    ) -> impl Future<Output = Result<Self::Sql, ConnectError>> + Send;

    /// Connects for replication.
    fn connect_replication(
        &self,
        application_name: &str,
    ) -> impl Future<Output = Result<Self::Replication, ReplicationError>> + Send;

    /// Makes the temporary slot and opens its snapshot. The permanent slot that follows is synchronised to standbys if `failover`.
    fn begin_backlog(
        &self,
        replication: Self::Replication,
        sql: Self::Sql,
        columns: &ColumnNames,
        selection: &Selection,
        failover: bool,
    ) -> impl Future<Output = Result<Self::Backlog, BacklogError>> + Send;

    /// What tells whether the slot is the one that was there before.
    fn evidence(
        &self,
        sql: &Self::Sql,
        replication: &mut Self::Replication,
        remembered: Option<u32>,
    ) -> impl Future<Output = Result<SlotHistory, SlotHistoryError>> + Send;

    /// The same again of the server that the evidence is of.
    fn look_again(
        &self,
        sql: &Self::Sql,
        evidence: &mut SlotHistory,
    ) -> impl Future<Output = Result<(), CatalogError>> + Send;
}

/// A connection for plain SQL.
pub trait Sql: Send + Sync {
    /// Everything that a source's start looks at.
    fn facts(&self, database: &SourceDatabase) -> impl Future<Output = Result<Facts, CatalogError>> + Send;

    /// Makes the publication if it is missing, and puts the table in if it is not held.
    fn mend_publication(
        &self,
        database: &SourceDatabase,
        kind: TableKind,
    ) -> impl Future<Output = Result<(), CatalogError>> + Send;

    /// Whether the table's inserts get into the stream, and by what.
    fn publishing(
        &self,
        database: &SourceDatabase,
    ) -> impl Future<Output = Result<Publishing, CatalogError>> + Send;

    /// Tables below the outbox table whose rows are never sent.
    fn unpublished_tables(
        &self,
        database: &SourceDatabase,
    ) -> impl Future<Output = Result<Option<Unpublished>, CatalogError>> + Send;

    /// Whether the table is known to have no row.
    fn table_is_empty(
        &self,
        database: &SourceDatabase,
        kind: TableKind,
    ) -> impl Future<Output = Result<bool, CatalogError>> + Send;

    /// Makes the permanent slot at once, synchronised to standbys if `failover`.
    fn create_slot(
        &self,
        slot: &str,
        failover: bool,
    ) -> impl Future<Output = Result<(), CatalogError>> + Send;

    /// Transactions that somebody's making of the slot waits for, the oldest first.
    fn awaited_transactions(
        &self,
        slot: &str,
    ) -> impl Future<Output = Result<Vec<OpenTransaction>, CatalogError>> + Send;

    /// Drops a slot; `false` when there was none.
    fn drop_slot(&self, slot: &str) -> impl Future<Output = Result<bool, CatalogError>> + Send;

    /// Makes the table of slot records.
    fn create_records(
        &self,
        database: &SourceDatabase,
    ) -> impl Future<Output = Result<(), CatalogError>> + Send;

    /// From now on the server refuses what takes longer, or waits longer for a lock.
    fn limit_statements(&self, to: Duration) -> impl Future<Output = Result<(), CatalogError>> + Send;

    /// Writes the slot's record, whatever was there.
    fn write_record(
        &self,
        database: &SourceDatabase,
        record: &SlotRecord,
    ) -> impl Future<Output = Result<(), CatalogError>> + Send;

    /// Writes the slot's record for whoever streams from the slot as server process `pid`; `false`, and nothing is written,
    /// when somebody else does by now.
    fn claim_record(
        &self,
        database: &SourceDatabase,
        record: &SlotRecord,
        pid: i32,
    ) -> impl Future<Output = Result<bool, CatalogError>> + Send;

    /// Writes down a gap, unless the record was written since it was found of that version, or not found.
    fn mark_record(
        &self,
        database: &SourceDatabase,
        found: Option<i64>,
        marked: &SlotRecord,
    ) -> impl Future<Output = Result<(), CatalogError>> + Send;

    /// Copies the slot's position into the record, but none beyond `confirmed`, unless another has taken over; whether the record
    /// says `confirmed` now.
    fn note_record(
        &self,
        database: &SourceDatabase,
        holder: &str,
        confirmed: Confirmed,
    ) -> impl Future<Output = Result<bool, CatalogError>> + Send;

    /// Writes down where `holder` has left the slot, unless another has taken over.
    fn release_record(
        &self,
        database: &SourceDatabase,
        holder: &str,
        confirmed: Confirmed,
    ) -> impl Future<Output = Result<(), CatalogError>> + Send;

    /// Makes the table of parked rows.
    fn create_parked(
        &self,
        database: &SourceDatabase,
    ) -> impl Future<Output = Result<(), CatalogError>> + Send;

    /// Puts rows aside, all or none; when this returns `Ok` they are there for good, in WAL before the place that it gives. Rows
    /// that are there already are as good. The server ends what takes long, but for the commit. After an error the connection
    /// is good for nothing else.
    fn park(
        &self,
        database: &SourceDatabase,
        rows: &[Arc<ParkedRow>],
    ) -> impl Future<Output = Result<Lsn, CatalogError>> + Send;

    /// How many rows are parked; `None` when that cannot be seen.
    fn count_parked(
        &self,
        database: &SourceDatabase,
    ) -> impl Future<Output = Result<Option<u64>, CatalogError>> + Send;

    /// Rows that are parked in another schema, and what moves them.
    fn parked_elsewhere(
        &self,
        database: &SourceDatabase,
    ) -> impl Future<Output = Result<Option<Problem>, CatalogError>> + Send;

    /// One slot; `None` when there is no such slot.
    fn slot_progress(
        &self,
        slot: &str,
    ) -> impl Future<Output = Result<Option<SlotFacts>, CatalogError>> + Send;

    /// The statements that remove confirmed rows, as long as the table is published by this, on a connection that is then good
    /// for nothing else.
    fn prepare_cleanup(
        &self,
        database: &SourceDatabase,
        cleanup: Cleanup,
        columns: &ColumnNames,
        published_by: PublishedBy,
    ) -> impl Future<Output = Result<Statements, CleanupError>> + Send;

    /// Rows that are there and old enough, and a position that all of them were committed before.
    fn search_rows(
        &self,
        database: &SourceDatabase,
        statements: &Statements,
        pass: Pass,
    ) -> impl Future<Output = Result<Seen, CleanupError>> + Send;

    /// Removes rows, as far as they are still the same; how many that were.
    fn remove_rows(
        &self,
        statements: &Statements,
        rows: &[SeenRow],
    ) -> impl Future<Output = Result<u64, CleanupError>> + Send;

    /// The connection is gone.
    fn is_closed(&self) -> bool;
}

/// A connection in replication mode that does not stream yet.
pub trait Replication: Sized + Send {
    /// What it becomes.
    type Stream: Stream;

    /// Who the server is, and on which timeline.
    fn identify_system(&mut self) -> impl Future<Output = Result<SystemIdentity, ReplicationError>> + Send;

    /// Use of a slot's name and of its temporary slot's.
    fn slot_uses(
        &mut self,
        database: &SourceDatabase,
    ) -> impl Future<Output = Result<Vec<SlotUse>, ReplicationError>> + Send;

    /// Transactions that somebody's making of the slot waits for, the oldest first.
    fn awaited_transactions(
        &mut self,
        slot: &str,
    ) -> impl Future<Output = Result<Vec<OpenTransaction>, ReplicationError>> + Send;

    /// Who this connection is to the server, and what a slot has confirmed.
    fn before_stream(
        &mut self,
        slot: &str,
    ) -> impl Future<Output = Result<BeforeStream, ReplicationError>> + Send;

    /// Has the slot synchronised to standbys from now on; `false`, and the connection is of no more use, while somebody uses it.
    fn make_failover(&mut self, slot: &str) -> impl Future<Output = Result<bool, ReplicationError>> + Send;

    /// Begins streaming. When the server refused, the connection comes back.
    fn start(
        self,
        slot: &str,
        publication: &str,
        from: Lsn,
    ) -> impl Future<Output = Result<Self::Stream, (Option<Self>, ReplicationError)>> + Send;
}

/// A connection that streams.
pub trait Stream: Send {
    /// The next event. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<ReplicationEvent, ReplicationError>> + Send;

    /// The next event if one has already been received.
    fn next_ready(&mut self) -> Result<Option<ReplicationEvent>, ReplicationError>;

    /// When the server was last heard.
    fn last_heard(&self) -> Instant;

    /// Tells the server how far everything is confirmed. Never waits for the server. Cancel-safe.
    fn send_status(
        &mut self,
        confirmed: Option<ConfirmedLsn>,
        reply_requested: bool,
    ) -> impl Future<Output = Result<(), ReplicationError>> + Send;

    /// Ends the stream; when this returns `Ok`, the server has taken in the position and given the slot free.
    fn finish(
        self,
        confirmed: Option<ConfirmedLsn>,
    ) -> impl Future<Output = Result<(), ReplicationError>> + Send;
}

/// Rows of a snapshot, and the temporary slot that begins where it ends.
pub trait Backlog: Send {
    /// The connection that comes back at the end.
    type Replication;
    /// The rows.
    type Rows: Rows;

    /// The rows, to be read to the end.
    fn rows(&mut self) -> &mut Self::Rows;

    /// Where the stream goes on.
    fn consistent_point(&self) -> Lsn;

    /// Makes the permanent slot.
    fn finish(self) -> impl Future<Output = Result<Self::Replication, BacklogError>> + Send;
}

/// Rows of a snapshot.
pub trait Rows: Send {
    /// In what order the rows come.
    fn order(&self) -> RowOrder;

    /// The columns of the rows.
    fn columns(&self) -> &[Column];

    /// When the snapshot was taken, by the server's clock.
    fn taken_at(&self) -> Timestamp;

    /// The next row; `None` after the last. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<OutboxRow>, SnapshotError>> + Send;
}

impl Database for SourceDatabase {
    type Sql = tokio_postgres::Client;
    type Replication = ReplicationConnection;
    type Backlog = backlog::Backlog;

    fn options(&self) -> &SourceDatabase {
        self
    }

    async fn connect_sql(&self, application_name: &str) -> Result<Self::Sql, ConnectError> {
        self.endpoint.connect_sql(application_name).await
    }

    async fn connect_replication(
        &self,
        application_name: &str,
    ) -> Result<Self::Replication, ReplicationError> {
        self.connect_replication(application_name).await
    }

    async fn begin_backlog(
        &self,
        replication: Self::Replication,
        sql: Self::Sql,
        columns: &ColumnNames,
        selection: &Selection,
        failover: bool,
    ) -> Result<Self::Backlog, BacklogError> {
        backlog::Backlog::begin(replication, sql, self, columns, selection, failover).await
    }

    async fn evidence(
        &self,
        sql: &Self::Sql,
        replication: &mut Self::Replication,
        remembered: Option<u32>,
    ) -> Result<SlotHistory, SlotHistoryError> {
        SlotHistory::gather(sql, replication, self, remembered).await
    }

    async fn look_again(&self, sql: &Self::Sql, evidence: &mut SlotHistory) -> Result<(), CatalogError> {
        evidence.look_again(sql, self).await
    }
}

impl Sql for tokio_postgres::Client {
    async fn facts(&self, database: &SourceDatabase) -> Result<Facts, CatalogError> {
        Facts::read(self, database).await
    }

    async fn mend_publication(&self, database: &SourceDatabase, kind: TableKind) -> Result<(), CatalogError> {
        publication::mend(self, database, kind).await
    }

    async fn publishing(&self, database: &SourceDatabase) -> Result<Publishing, CatalogError> {
        publication::publishing(self, database).await
    }

    async fn unpublished_tables(
        &self,
        database: &SourceDatabase,
    ) -> Result<Option<Unpublished>, CatalogError> {
        family::unpublished(self, &database.table).await
    }

    async fn table_is_empty(&self, database: &SourceDatabase, kind: TableKind) -> Result<bool, CatalogError> {
        catalog::is_empty(self, &database.table, kind).await
    }

    async fn create_slot(&self, slot: &str, failover: bool) -> Result<(), CatalogError> {
        catalog::create_slot(self, slot, failover).await
    }

    async fn awaited_transactions(&self, slot: &str) -> Result<Vec<OpenTransaction>, CatalogError> {
        open_transactions::awaited(self, slot).await
    }

    async fn drop_slot(&self, slot: &str) -> Result<bool, CatalogError> {
        catalog::drop_slot(self, slot).await
    }

    async fn create_records(&self, database: &SourceDatabase) -> Result<(), CatalogError> {
        slot_record::create_table(self, database).await
    }

    async fn limit_statements(&self, to: Duration) -> Result<(), CatalogError> {
        catalog::limit_statements(self, to).await
    }

    async fn write_record(&self, database: &SourceDatabase, record: &SlotRecord) -> Result<(), CatalogError> {
        slot_record::write(self, database, record).await
    }

    async fn claim_record(
        &self,
        database: &SourceDatabase,
        record: &SlotRecord,
        pid: i32,
    ) -> Result<bool, CatalogError> {
        slot_record::claim(self, database, record, pid).await
    }

    async fn mark_record(
        &self,
        database: &SourceDatabase,
        found: Option<i64>,
        marked: &SlotRecord,
    ) -> Result<(), CatalogError> {
        slot_record::mark(self, database, found, marked).await
    }

    async fn note_record(
        &self,
        database: &SourceDatabase,
        holder: &str,
        confirmed: Confirmed,
    ) -> Result<bool, CatalogError> {
        slot_record::note(self, database, holder, confirmed).await
    }

    async fn release_record(
        &self,
        database: &SourceDatabase,
        holder: &str,
        confirmed: Confirmed,
    ) -> Result<(), CatalogError> {
        slot_record::release(self, database, holder, confirmed).await
    }

    async fn create_parked(&self, database: &SourceDatabase) -> Result<(), CatalogError> {
        parked_table::create_table(self, database).await
    }

    async fn park(&self, database: &SourceDatabase, rows: &[Arc<ParkedRow>]) -> Result<Lsn, CatalogError> {
        parked_table::store(self, database, rows).await
    }

    async fn count_parked(&self, database: &SourceDatabase) -> Result<Option<u64>, CatalogError> {
        parked_table::count(self, database).await
    }

    async fn parked_elsewhere(&self, database: &SourceDatabase) -> Result<Option<Problem>, CatalogError> {
        left_behind::parked(self, database).await
    }

    async fn slot_progress(&self, slot: &str) -> Result<Option<SlotFacts>, CatalogError> {
        catalog::slot_progress(self, slot).await
    }

    async fn prepare_cleanup(
        &self,
        database: &SourceDatabase,
        cleanup: Cleanup,
        columns: &ColumnNames,
        published_by: PublishedBy,
    ) -> Result<Statements, CleanupError> {
        Statements::prepare(self, database, cleanup, columns, published_by).await
    }

    async fn search_rows(
        &self,
        database: &SourceDatabase,
        statements: &Statements,
        pass: Pass,
    ) -> Result<Seen, CleanupError> {
        cleanup::search(self, database, statements, pass).await
    }

    async fn remove_rows(&self, statements: &Statements, rows: &[SeenRow]) -> Result<u64, CleanupError> {
        cleanup::remove(self, statements, rows).await
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }
}

impl Replication for ReplicationConnection {
    type Stream = ReplicationStream<ConfirmedLsn>;

    async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        self.identify_system().await
    }

    async fn slot_uses(&mut self, database: &SourceDatabase) -> Result<Vec<SlotUse>, ReplicationError> {
        slot_use::read_by_replication(self, &database.schema, &database.slot).await
    }

    async fn awaited_transactions(&mut self, slot: &str) -> Result<Vec<OpenTransaction>, ReplicationError> {
        open_transactions::awaited_by_replication(self, slot).await
    }

    async fn before_stream(&mut self, slot: &str) -> Result<BeforeStream, ReplicationError> {
        self.before_stream(slot).await
    }

    async fn make_failover(&mut self, slot: &str) -> Result<bool, ReplicationError> {
        self.make_failover(slot).await
    }

    async fn start(
        self,
        slot: &str,
        publication: &str,
        from: Lsn,
    ) -> Result<ReplicationStream<ConfirmedLsn>, (Option<Self>, ReplicationError)> {
        self.start(slot, publication, from).await
    }
}

impl Stream for ReplicationStream<ConfirmedLsn> {
    async fn next(&mut self) -> Result<ReplicationEvent, ReplicationError> {
        self.next().await
    }

    fn next_ready(&mut self) -> Result<Option<ReplicationEvent>, ReplicationError> {
        self.next_ready()
    }

    fn last_heard(&self) -> Instant {
        self.last_heard()
    }

    async fn send_status(
        &mut self,
        confirmed: Option<ConfirmedLsn>,
        reply_requested: bool,
    ) -> Result<(), ReplicationError> {
        self.send_status(confirmed, reply_requested).await
    }

    async fn finish(self, confirmed: Option<ConfirmedLsn>) -> Result<(), ReplicationError> {
        self.finish(confirmed).await
    }
}

impl Backlog for backlog::Backlog {
    type Replication = ReplicationConnection;
    type Rows = SnapshotRows;

    fn rows(&mut self) -> &mut SnapshotRows {
        &mut self.rows
    }

    fn consistent_point(&self) -> Lsn {
        self.consistent_point()
    }

    async fn finish(self) -> Result<ReplicationConnection, BacklogError> {
        self.finish().await
    }
}

impl Rows for SnapshotRows {
    fn order(&self) -> RowOrder {
        self.order()
    }

    fn columns(&self) -> &[Column] {
        self.columns()
    }

    fn taken_at(&self) -> Timestamp {
        self.taken_at()
    }

    async fn next(&mut self) -> Result<Option<OutboxRow>, SnapshotError> {
        self.next().await
    }
}
