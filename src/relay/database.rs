//! What the relay asks of a database, and that PostgreSQL answers it.
//!
//! The room `postgres` answers in production, a simulated server in `tests/simulation`; which one is known when the relay
//! is compiled for it, so the seam costs nothing. A trait is a table of questions: behind each stands the function that answers in
//! production. An implementation keeps the promises of that function: what is cancel-safe, what comes back after which error.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    backfill::{
        backlog::{self, BacklogError},
        snapshot::{RowOrder, Selection, SnapshotError, SnapshotRows},
    },
    cleanup::{self, CleanupError, Pass, Seen, SeenRow, Statements},
    ledger::ConfirmedLsn,
    message::{Column, ColumnNames, OutboxRow, ParkReason, ParkedRow, Timestamp},
    parking::{
        parked_rows::{self, Lock, ParkedEntry, ParkedValues},
        parked_table,
    },
    position::{Lsn, Position},
    postgres::{
        Cleanup, SourceDatabase, TableName,
        outbox_table::{self, TableKind},
        statement::{self, CatalogError},
    },
    preflight::{
        Facts, Problem,
        facts::{
            family::{self, Unpublished},
            left_behind,
        },
    },
    slot::{
        continuity::SlotHistory,
        creation,
        facts::{self, SlotFacts},
        history::SlotHistoryError,
        open_transactions::{self, OpenTransaction},
        publication::{self, PublishedBy, Publishing},
        record::{self, Confirmed, SlotRecord},
        usage::{self, SlotUse},
    },
};
use pg_replication::{
    BeforeStream, ConnectError, ReplicationConnection, ReplicationError, ReplicationEvent, ReplicationStream,
    SystemIdentity,
};

/// A database that can be reached.
pub trait Database: Clone + Send + Sync + 'static {
    /// A connection for plain SQL.
    type Sql: Sql;
    /// A connection for replication commands.
    type Replication: Replication;
    /// Rows that are older than the slot.
    type Backlog: Backlog<Replication = Self::Replication>;
    /// Rows of a snapshot without a slot.
    type Rows: Rows;

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

    /// Takes a snapshot of the rows that are in the table now.
    fn snapshot(
        &self,
        sql: Self::Sql,
        columns: &ColumnNames,
        selection: &Selection,
    ) -> impl Future<Output = Result<Self::Rows, SnapshotError>> + Send;

    /// What tells whether the slot is the one that was there before.
    fn slot_history(
        &self,
        sql: &Self::Sql,
        replication: &mut Self::Replication,
        remembered: Option<u32>,
    ) -> impl Future<Output = Result<SlotHistory, SlotHistoryError>> + Send;

    /// The same again of the server that the history is of.
    fn look_again(
        &self,
        sql: &Self::Sql,
        history: &mut SlotHistory,
    ) -> impl Future<Output = Result<(), CatalogError>> + Send;
}

/// Declares a trait together with the type that answers in production, and behind each question the function that does.
macro_rules! seam {
    (
        $(#[$about:meta])*
        pub trait $name:ident: [$($bound:tt)+] for $production:ty;
        $(types { $($(#[$type_about:meta])* $type:ident: $type_bound:path = $answering:ty;)* })?
        asked {
            $($(#[$question:meta])* async fn $ask:ident($($asked:tt)*) -> $answer:ty = $function:expr;)*
        }
        $(known { $($(#[$fact:meta])* fn $tell:ident($($told:tt)*) -> $known:ty = $getter:expr;)* })?
    ) => {
        $(#[$about])*
        pub trait $name: $($bound)+ {
            $($($(#[$type_about])* type $type: $type_bound;)*)?
            $($(#[$question])* fn $ask($($asked)*) -> impl Future<Output = $answer> + Send;)*
            $($($(#[$fact])* fn $tell($($told)*) -> $known;)*)?
        }

        impl $name for $production {
            $($(type $type = $answering;)*)?
            $(async fn $ask($($asked)*) -> $answer {
                seam!(@call $function, $($asked)*).await
            })*
            $($(fn $tell($($told)*) -> $known {
                seam!(@call $getter, $($told)*)
            })*)?
        }
    };
    (@call $function:expr, &mut $this:ident $(, $argument:ident: $type:ty)*) => { $function($this $(, $argument)*) };
    (@call $function:expr, & $this:ident $(, $argument:ident: $type:ty)*) => { $function($this $(, $argument)*) };
    (@call $function:expr, $this:ident $(, $argument:ident: $type:ty)*) => { $function($this $(, $argument)*) };
}

seam! {
    /// A connection for plain SQL.
    pub trait Sql: [Send + Sync] for tokio_postgres::Client;

    asked {
        /// Everything that a source's start looks at.
        async fn facts(&self, database: &SourceDatabase) -> Result<Facts, CatalogError> = Facts::read;

        /// Makes the publication if it is missing, and puts the table in if it is not held.
        async fn mend_publication(&self, database: &SourceDatabase, kind: TableKind) -> Result<(), CatalogError> = publication::mend;

        /// Whether the table's inserts get into the stream, and by what.
        async fn publishing(&self, database: &SourceDatabase) -> Result<Publishing, CatalogError> = publication::publishing;

        /// Tables below the outbox table whose rows are never sent.
        async fn unpublished_tables(&self, table: &TableName) -> Result<Option<Unpublished>, CatalogError> = family::unpublished;

        /// Whether the table is known to have no row.
        async fn table_is_empty(&self, table: &TableName, kind: TableKind) -> Result<bool, CatalogError> = outbox_table::is_empty;

        /// Makes the permanent slot at once, synchronised to standbys if `failover`.
        async fn create_slot(&self, slot: &str, failover: bool) -> Result<(), CatalogError> = creation::create_slot;

        /// Transactions that somebody's making of the slot waits for, the oldest first.
        async fn awaited_transactions(&self, slot: &str) -> Result<Vec<OpenTransaction>, CatalogError> = open_transactions::awaited;

        /// Drops a slot; `false` when there was none.
        async fn drop_slot(&self, slot: &str) -> Result<bool, CatalogError> = creation::drop_slot;

        /// One slot; `None` when there is no such slot.
        async fn slot_progress(&self, slot: &str) -> Result<Option<SlotFacts>, CatalogError> = facts::slot_progress;

        /// From now on the server refuses what takes longer, or waits longer for a lock.
        async fn limit_statements(&self, to: Duration) -> Result<(), CatalogError> = statement::limit_statements;

        // The slot's record.

        /// Makes the table of slot records.
        async fn create_records(&self, database: &SourceDatabase) -> Result<(), CatalogError> = record::create_table;

        /// Writes the slot's record, whatever was there.
        async fn write_record(&self, database: &SourceDatabase, record: &SlotRecord) -> Result<(), CatalogError> = record::write;

        /// Writes the slot's record for whoever streams from the slot as server process `pid`; `false`, and nothing is written,
        /// when somebody else does by now.
        async fn claim_record(&self, database: &SourceDatabase, record: &SlotRecord, pid: i32) -> Result<bool, CatalogError>
            = record::claim;

        /// Writes down a gap, unless the record was written since it was found of that version, or not found.
        async fn mark_record(&self, database: &SourceDatabase, found: Option<i64>, marked: &SlotRecord) -> Result<(), CatalogError>
            = record::mark;

        /// Copies the slot's position into the record, but none beyond `confirmed`, unless another has taken over; whether the record
        /// says `confirmed` now.
        async fn note_record(&self, database: &SourceDatabase, holder: &str, confirmed: Confirmed) -> Result<bool, CatalogError>
            = record::note;

        /// Writes down where `holder` has left the slot, unless another has taken over.
        async fn release_record(&self, database: &SourceDatabase, holder: &str, confirmed: Confirmed) -> Result<(), CatalogError>
            = record::release;

        // Parked rows.

        /// Makes the table of parked rows.
        async fn create_parked(&self, database: &SourceDatabase) -> Result<(), CatalogError> = parked_table::create_table;

        /// Puts rows aside, all or none; when this returns `Ok` they are there for good, in WAL before the place that it gives. Rows
        /// that are there already are as good. The server ends what takes long, but for the commit. After an error the connection
        /// is good for nothing else.
        async fn park(&self, database: &SourceDatabase, rows: &[Arc<ParkedRow>]) -> Result<Lsn, CatalogError> = parked_table::store;

        /// How many rows are parked; `None` when that cannot be seen.
        async fn count_parked(&self, database: &SourceDatabase) -> Result<Option<u64>, CatalogError> = parked_table::count;

        /// Rows that are parked in another schema, and what moves them.
        async fn parked_elsewhere(&self, database: &SourceDatabase) -> Result<Option<Problem>, CatalogError> = left_behind::parked;

        /// Keeps every other command on the parked rows away, for as long as the connection lasts.
        async fn lock_parked(&self, database: &SourceDatabase) -> Result<Lock, CatalogError> = parked_rows::lock;

        /// Every parked row, in the order of their positions.
        async fn list_parked(&self, database: &SourceDatabase) -> Result<Vec<ParkedEntry>, CatalogError> = parked_rows::list;

        /// A parked row with its values; `None` when it is parked no longer.
        async fn load_parked(&self, database: &SourceDatabase, entry: &ParkedEntry) -> Result<Option<ParkedValues>, CatalogError>
            = parked_rows::load;

        /// Why a parked row may have been overtaken by a later one of its aggregate; `None` when it has not been.
        async fn overtaken(&self, database: &SourceDatabase, names: &ColumnNames, entry: &ParkedEntry, values: &ParkedValues)
            -> Result<Option<String>, CatalogError>
            = parked_rows::overtaken;

        /// Removes a parked row; `false` when there was none.
        async fn remove_parked(&self, database: &SourceDatabase, position: Position) -> Result<bool, CatalogError> = parked_rows::remove;

        /// Writes down why a row stays parked.
        async fn keep_parked(&self, database: &SourceDatabase, position: Position, reason: &ParkReason) -> Result<(), CatalogError>
            = parked_rows::stays;

        // Clean-up.

        /// The statements that remove confirmed rows, as long as the table is published by this, on a connection that is then good
        /// for nothing else.
        async fn prepare_cleanup(
            &self, database: &SourceDatabase, cleanup: Cleanup, columns: &ColumnNames, published_by: PublishedBy
        ) -> Result<Statements, CleanupError> = Statements::prepare;

        /// Rows that are there and old enough, and a position that all of them were committed before.
        async fn search_rows(&self, database: &SourceDatabase, statements: &Statements, pass: Pass) -> Result<Seen, CleanupError>
            = cleanup::search;

        /// Removes rows, as far as they are still the same; how many that were.
        async fn remove_rows(&self, statements: &Statements, rows: &[SeenRow]) -> Result<u64, CleanupError> = cleanup::remove;
    }

    known {
        /// The connection is gone.
        fn is_closed(&self) -> bool = tokio_postgres::Client::is_closed;
    }
}

seam! {
    /// A connection in replication mode that does not stream yet.
    pub trait Replication: [Sized + Send] for ReplicationConnection;

    types {
        /// What it becomes.
        Stream: Stream = ReplicationStream<ConfirmedLsn>;
    }

    asked {
        /// Who the server is, and on which timeline.
        async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> = Self::identify_system;

        /// Use of a slot's name and of its temporary slot's.
        async fn slot_uses(&mut self, schema: &str, slot: &str) -> Result<Vec<SlotUse>, ReplicationError>
            = usage::read_by_replication;

        /// Transactions that somebody's making of the slot waits for, the oldest first.
        async fn awaited_transactions(&mut self, slot: &str) -> Result<Vec<OpenTransaction>, ReplicationError>
            = open_transactions::awaited_by_replication;

        /// Who this connection is to the server, and what a slot has confirmed.
        async fn before_stream(&mut self, slot: &str) -> Result<BeforeStream, ReplicationError> = Self::before_stream;

        /// Has the slot synchronised to standbys from now on; `false`, and the connection is of no more use, while somebody uses it.
        async fn make_failover(&mut self, slot: &str) -> Result<bool, ReplicationError> = Self::make_failover;

        /// Begins streaming. When the server refused, the connection comes back.
        async fn start(self, slot: &str, publication: &str, from: Lsn) -> Result<Self::Stream, (Option<Self>, ReplicationError)>
            = Self::start;
    }
}

seam! {
    /// A connection that streams.
    pub trait Stream: [Send] for ReplicationStream<ConfirmedLsn>;

    asked {
        /// The next event. Cancel-safe.
        async fn next(&mut self) -> Result<ReplicationEvent, ReplicationError> = Self::next;

        /// Tells the server how far everything is confirmed. Never waits for the server. Cancel-safe.
        async fn send_status(&mut self, confirmed: Option<ConfirmedLsn>, reply_requested: bool) -> Result<(), ReplicationError>
            = Self::send_status;

        /// Ends the stream; when this returns `Ok`, the server has taken in the position and given the slot free.
        async fn finish(self, confirmed: Option<ConfirmedLsn>) -> Result<(), ReplicationError> = Self::finish;
    }

    known {
        /// The next event if one has already been received.
        fn next_ready(&mut self) -> Result<Option<ReplicationEvent>, ReplicationError> = Self::next_ready;

        /// When the server was last heard.
        fn last_heard(&self) -> Instant = Self::last_heard;
    }
}

seam! {
    /// Rows of a snapshot.
    pub trait Rows: [Send] for SnapshotRows;

    asked {
        /// The next row; `None` after the last. Cancel-safe.
        async fn next(&mut self) -> Result<Option<OutboxRow>, SnapshotError> = Self::next;
    }

    known {
        /// In what order the rows come.
        fn order(&self) -> RowOrder = Self::order;

        /// The columns of the rows.
        fn columns(&self) -> &[Column] = Self::columns;

        /// When the snapshot was taken, by the server's clock.
        fn taken_at(&self) -> Timestamp = Self::taken_at;
    }
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

impl Database for SourceDatabase {
    type Sql = tokio_postgres::Client;
    type Replication = ReplicationConnection;
    type Backlog = backlog::Backlog;
    type Rows = SnapshotRows;

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

    async fn snapshot(
        &self,
        sql: Self::Sql,
        columns: &ColumnNames,
        selection: &Selection,
    ) -> Result<SnapshotRows, SnapshotError> {
        SnapshotRows::of_now(sql, self, columns, selection).await
    }

    async fn slot_history(
        &self,
        sql: &Self::Sql,
        replication: &mut Self::Replication,
        remembered: Option<u32>,
    ) -> Result<SlotHistory, SlotHistoryError> {
        SlotHistory::gather(sql, replication, self, remembered).await
    }

    async fn look_again(&self, sql: &Self::Sql, history: &mut SlotHistory) -> Result<(), CatalogError> {
        history.look_again(sql, self).await
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
