//! The relay's view of a database, and its implementation by PostgreSQL.
//!
//! The rooms `postgres`, `slot`, `parking` and `cleanup` implement the traits in production; `tests/simulation` implements them
//! with a simulated server. Dispatch is static, so the traits cost nothing at run time. Each method names the function that
//! implements it in production. Another implementation keeps that function's promises: cancel safety, and the state after each
//! error.

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
            family::{self, UnsentTables},
            left_behind,
        },
    },
    slot::{
        continuity::SlotHistory,
        creation::{self, SlotError},
        facts::{self, SlotFacts},
        history::SlotHistoryError,
        open_transactions::{self, OpenTransaction},
        publication::{self, PublishedBy, Publishing},
        record::{self, Confirmed, SlotRecord},
        usage,
    },
};
use pg_replication::{
    BeforeStream, ConnectError, ReplicationConnection, ReplicationError, ReplicationEvent, ReplicationStream,
    SystemIdentity,
};

/// A database that outboxd can connect to.
pub trait Database: Clone + Send + Sync + 'static {
    /// A connection for plain SQL.
    type Sql: Sql;
    /// A connection for replication commands.
    type Replication: Replication;
    /// Rows that are older than the slot.
    type Backlog: Backlog<Replication = Self::Replication>;
    /// Rows of a snapshot without a slot.
    type Rows: Rows;

    /// Names of slot, publication and table, and the other settings of the database.
    fn options(&self) -> &SourceDatabase;

    /// Connects for plain SQL.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    fn connect_sql(
        &self,
        application_name: &str,
    ) -> impl Future<Output = Result<Self::Sql, ConnectError>> + Send;

    /// Connects for replication.
    ///
    /// # Errors
    ///
    /// [`ReplicationError`].
    fn connect_replication(
        &self,
        application_name: &str,
    ) -> impl Future<Output = Result<Self::Replication, ReplicationError>> + Send;

    /// Creates the temporary slot and opens its snapshot. If `failover` is set, the permanent slot that follows is a failover slot.
    ///
    /// # Errors
    ///
    /// [`BacklogError`]; among them that another instance holds the temporary slot, or that the slot exists already.
    fn begin_backlog(
        &self,
        replication: Self::Replication,
        sql: Self::Sql,
        columns: &ColumnNames,
        selection: &Selection,
        failover: bool,
    ) -> impl Future<Output = Result<Self::Backlog, BacklogError>> + Send;

    /// Takes a snapshot of the rows that are in the table now.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`].
    fn snapshot(
        &self,
        sql: Self::Sql,
        columns: &ColumnNames,
        selection: &Selection,
    ) -> impl Future<Output = Result<Self::Rows, SnapshotError>> + Send;

    /// Reads the facts that tell whether the slot is the one that was there before.
    ///
    /// # Errors
    ///
    /// [`SlotHistoryError`].
    fn slot_history(
        &self,
        sql: &Self::Sql,
        replication: &mut Self::Replication,
        remembered: Option<u32>,
    ) -> impl Future<Output = Result<SlotHistory, SlotHistoryError>> + Send;

    /// Reads these facts again, from the same server.
    ///
    /// # Errors
    ///
    /// [`CatalogError`].
    fn look_again(
        &self,
        sql: &Self::Sql,
        history: &mut SlotHistory,
    ) -> impl Future<Output = Result<(), CatalogError>> + Send;
}

/// Declares a trait, and implements it for the production type. Each method names the function that implements it.
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
            $($(#[$question])*
            #[doc = ""]
            #[doc = "# Errors"]
            #[doc = ""]
            #[doc = "The server refuses, does not answer in time, or the connection is lost."]
            fn $ask($($asked)*) -> impl Future<Output = $answer> + Send;)*
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
        /// Reads every fact that the start of a source checks.
        async fn facts(&self, database: &SourceDatabase) -> Result<Facts, CatalogError> = Facts::read;

        /// Creates the publication if it is missing, and adds the table if the publication does not have it.
        async fn mend_publication(&self, database: &SourceDatabase, kind: TableKind) -> Result<(), CatalogError> = publication::mend;

        /// Reads whether the publication publishes inserts of the table, and by which entry.
        async fn publishing(&self, database: &SourceDatabase) -> Result<Publishing, CatalogError> = publication::publishing;

        /// Finds tables below the outbox table whose rows are never sent.
        async fn unpublished_tables(&self, table: &TableName) -> Result<Option<UnsentTables>, CatalogError> = family::unpublished;

        /// Reads whether the table has no rows.
        async fn table_is_empty(&self, table: &TableName, kind: TableKind) -> Result<bool, CatalogError> = outbox_table::is_empty;

        /// Creates the permanent slot at once, as a failover slot if `failover` is set.
        async fn create_slot(&self, slot: &str, failover: bool) -> Result<(), SlotError> = creation::create_slot;

        /// Lists the transactions that the creation of the slot waits for, oldest first.
        async fn awaited_transactions(&self, slot: &str) -> Result<Vec<OpenTransaction>, CatalogError> = open_transactions::awaited;

        /// Drops a slot. Returns `false` if there was none.
        async fn drop_slot(&self, slot: &str) -> Result<bool, SlotError> = creation::drop_slot;

        /// Reads one slot. `None` if there is no such slot.
        async fn slot_progress(&self, slot: &str) -> Result<Option<SlotFacts>, CatalogError> = facts::slot_progress;

        /// Limits the duration of statements and of waits for locks on this connection.
        async fn limit_statements(&self, to: Duration) -> Result<(), CatalogError> = statement::limit_statements;

        // The slot's record.

        /// Creates the table of slot records.
        async fn create_records(&self, database: &SourceDatabase) -> Result<(), CatalogError> = record::create_table;

        /// Writes the slot's record, whatever was there.
        async fn write_record(&self, database: &SourceDatabase, record: &SlotRecord) -> Result<(), CatalogError> = record::write;

        /// Writes the slot's record if the server process `pid` streams from the slot. Otherwise writes nothing and returns
        /// `false`.
        async fn claim_record(&self, database: &SourceDatabase, record: &SlotRecord, pid: i32) -> Result<bool, CatalogError>
            = record::claim;

        /// Writes a gap into the record, if the record still has the version `found` (`None`: if there is still no record).
        async fn mark_record(&self, database: &SourceDatabase, found: Option<i64>, marked: &SlotRecord) -> Result<(), CatalogError>
            = record::mark;

        /// Copies the slot's position into the record, up to `confirmed`, unless another holder has taken over. Returns whether the
        /// record now says `confirmed`.
        async fn note_record(&self, database: &SourceDatabase, holder: &str, confirmed: Confirmed) -> Result<bool, CatalogError>
            = record::note;

        /// Writes the position where `holder` left the slot, unless another holder has taken over.
        async fn release_record(&self, database: &SourceDatabase, holder: &str, confirmed: Confirmed) -> Result<(), CatalogError>
            = record::release;

        // Parked rows.

        /// Creates the table of parked rows.
        async fn create_parked(&self, database: &SourceDatabase) -> Result<(), CatalogError> = parked_table::create_table;

        /// Parks rows, all or none. After `Ok` they are committed, in WAL before the returned LSN. Rows that are already parked
        /// count as parked. The server cancels slow statements except the commit. After an error the connection must not be used
        /// again.
        async fn park(&self, database: &SourceDatabase, rows: &[Arc<ParkedRow>]) -> Result<Lsn, CatalogError> = parked_table::store;

        /// Counts the parked rows. `None` if the role may not read them.
        async fn count_parked(&self, database: &SourceDatabase) -> Result<Option<u64>, CatalogError> = parked_table::count;

        /// Finds rows that are parked in another schema, with the statements that move them.
        async fn parked_elsewhere(&self, database: &SourceDatabase) -> Result<Option<Problem>, CatalogError> = left_behind::parked;

        /// Locks out every other command on the parked rows, for the life of the connection.
        async fn lock_parked(&self, database: &SourceDatabase) -> Result<Lock, CatalogError> = parked_rows::lock;

        /// Lists all parked rows by position.
        async fn list_parked(&self, database: &SourceDatabase) -> Result<Vec<ParkedEntry>, CatalogError> = parked_rows::list;

        /// Loads a parked row with its values. `None` if the row is not parked any more.
        async fn load_parked(&self, database: &SourceDatabase, entry: &ParkedEntry) -> Result<Option<ParkedValues>, CatalogError>
            = parked_rows::load;

        /// Returns the reason why a later row of the same aggregate may have overtaken a parked one. `None` if none has.
        async fn overtaken(&self, database: &SourceDatabase, names: &ColumnNames, entry: &ParkedEntry, values: &ParkedValues)
            -> Result<Option<String>, CatalogError>
            = parked_rows::overtaken;

        /// Removes a parked row. Returns `false` if there was none.
        async fn remove_parked(&self, database: &SourceDatabase, position: Position) -> Result<bool, CatalogError> = parked_rows::remove;

        /// Writes the reason why a row stays parked.
        async fn keep_parked(&self, database: &SourceDatabase, position: Position, reason: &ParkReason) -> Result<(), CatalogError>
            = parked_rows::stays;

        // Clean-up.

        /// Prepares the statements that remove confirmed rows while the same publication entry publishes the table. Afterwards the
        /// connection serves only these.
        async fn prepare_cleanup(
            &self, database: &SourceDatabase, cleanup: Cleanup, columns: &ColumnNames, published_by: PublishedBy
        ) -> Result<Statements, CleanupError> = Statements::prepare;

        /// Finds rows that are old enough, and a position before which all of them were committed.
        async fn search_rows(&self, database: &SourceDatabase, statements: &Statements, pass: Pass) -> Result<Seen, CleanupError>
            = cleanup::search;

        /// Removes rows that are unchanged since they were found. Returns their number.
        async fn remove_rows(&self, statements: &Statements, rows: &[SeenRow]) -> Result<u64, CleanupError> = cleanup::remove;
    }

    known {
        /// Returns whether the connection is closed.
        fn is_closed(&self) -> bool = tokio_postgres::Client::is_closed;
    }
}

seam! {
    /// A connection in replication mode that does not stream yet.
    pub trait Replication: [Sized + Send] for ReplicationConnection;

    types {
        /// The connection while it streams.
        Stream: Stream = ReplicationStream<ConfirmedLsn>;
    }

    asked {
        /// Reads the server's system identifier and timeline.
        async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> = Self::identify_system;

        /// Reads the slot and its temporary slot with their holders.
        async fn slots(&mut self, schema: &str, slot: &str) -> Result<Vec<SlotFacts>, ReplicationError>
            = usage::read_by_replication;

        /// Lists the transactions that the creation of the slot waits for, oldest first.
        async fn awaited_transactions(&mut self, slot: &str) -> Result<Vec<OpenTransaction>, ReplicationError>
            = open_transactions::awaited_by_replication;

        /// Reads this connection's process id and the slot's confirmed position.
        async fn before_stream(&mut self, slot: &str) -> Result<BeforeStream, ReplicationError> = Self::before_stream;

        /// Makes the slot a failover slot. Returns `false` while somebody uses it; the connection must then not be used again.
        async fn make_failover(&mut self, slot: &str) -> Result<bool, ReplicationError> = Self::make_failover;

        /// Starts streaming. If the server refuses, the error returns the connection.
        async fn start(self, slot: &str, publication: &str, from: Lsn) -> Result<Self::Stream, (Option<Self>, ReplicationError)>
            = Self::start;
    }
}

seam! {
    /// A connection that streams.
    pub trait Stream: [Send] for ReplicationStream<ConfirmedLsn>;

    asked {
        /// Waits for the next event. Cancel-safe.
        async fn next(&mut self) -> Result<ReplicationEvent, ReplicationError> = Self::next;

        /// Reports the confirmed position to the server. Never waits for the server. Cancel-safe.
        async fn send_status(&mut self, confirmed: Option<ConfirmedLsn>, reply_requested: bool) -> Result<(), ReplicationError>
            = Self::send_status;

        /// Ends the stream. After `Ok`, the server has stored the position and released the slot.
        async fn finish(self, confirmed: Option<ConfirmedLsn>) -> Result<(), ReplicationError> = Self::finish;
    }

    known {
        /// Returns the next event if it has already been received.
        ///
        /// # Errors
        ///
        /// The stream has ended or is broken.
        fn next_ready(&mut self) -> Result<Option<ReplicationEvent>, ReplicationError> = Self::next_ready;

        /// Time when the server was last heard.
        fn last_heard(&self) -> Instant = Self::last_heard;
    }
}

seam! {
    /// Rows of a snapshot.
    pub trait Rows: [Send] for SnapshotRows;

    asked {
        /// Reads the next row. `None` after the last. Cancel-safe.
        async fn next(&mut self) -> Result<Option<OutboxRow>, SnapshotError> = Self::next;
    }

    known {
        /// Order of the rows.
        fn order(&self) -> RowOrder = Self::order;

        /// Columns of the rows.
        fn columns(&self) -> &[Column] = Self::columns;

        /// Time of the snapshot, by the server's clock.
        fn taken_at(&self) -> Timestamp = Self::taken_at;
    }
}

/// Rows of a snapshot, and the temporary slot that begins where the snapshot ends.
pub trait Backlog: Send {
    /// The connection that [`finish`](Self::finish) returns.
    type Replication;
    /// The rows.
    type Rows: Rows;

    /// Returns the rows. The caller reads them to the end.
    fn rows(&mut self) -> &mut Self::Rows;

    /// Position where the stream continues.
    fn consistent_point(&self) -> Lsn;

    /// Creates the permanent slot.
    ///
    /// # Errors
    ///
    /// [`BacklogError`].
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
