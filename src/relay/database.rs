//! What the relay asks of a database, and that PostgreSQL answers it.
//!
//! The room `postgres` answers in production, a simulated server in `tests/simulation`; which one is known when the relay
//! is compiled for it, so the seam costs nothing. A method does what the function of its name does in
//! [`postgres`](crate::postgres), and an implementation keeps that function's promises: what is cancel-safe, what comes
//! back after which error.

use tokio::time::Instant;

use crate::{
    ledger::ConfirmedLsn,
    outbox::{Column, ColumnNames, OutboxRow},
    position::Lsn,
    postgres::{
        SourceDatabase,
        backlog::{self, BacklogError, BacklogOrder},
        catalog::{self, CatalogError, Facts, SlotFacts, TableKind},
        error::ConnectError,
        replication::{
            ReplicationConnection, ReplicationError, ReplicationEvent, ReplicationStream, SystemIdentity,
        },
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

    /// Makes the temporary slot and opens its snapshot.
    fn begin_backlog(
        &self,
        replication: Self::Replication,
        sql: Self::Sql,
        columns: &ColumnNames,
    ) -> impl Future<Output = Result<Self::Backlog, BacklogError>> + Send;
}

/// A connection for plain SQL.
pub trait Sql: Send + Sync {
    /// Everything that a source's start looks at.
    fn facts(&self, database: &SourceDatabase) -> impl Future<Output = Result<Facts, CatalogError>> + Send;

    /// Makes the publication; `false` when there was one of that name already.
    fn create_publication(
        &self,
        database: &SourceDatabase,
        kind: TableKind,
    ) -> impl Future<Output = Result<bool, CatalogError>> + Send;

    /// Makes the permanent slot at once.
    fn create_slot(&self, slot: &str) -> impl Future<Output = Result<(), CatalogError>> + Send;

    /// One slot; `None` when there is no such slot.
    fn slot_progress(
        &self,
        slot: &str,
    ) -> impl Future<Output = Result<Option<SlotFacts>, CatalogError>> + Send;

    /// The connection is gone.
    fn is_closed(&self) -> bool;
}

/// A connection in replication mode that does not stream yet.
pub trait Replication: Sized + Send {
    /// What it becomes.
    type Stream: Stream;

    /// Who the server is, and on which timeline.
    fn identify_system(&mut self) -> impl Future<Output = Result<SystemIdentity, ReplicationError>> + Send;

    /// What a slot has confirmed; `None` when there is no such slot.
    fn confirmed_flush(
        &mut self,
        slot: &str,
    ) -> impl Future<Output = Result<Option<Lsn>, ReplicationError>> + Send;

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

    /// In what order the rows come.
    fn order(&self) -> BacklogOrder;

    /// The columns of the rows.
    fn columns(&self) -> &[Column];

    /// The next row; `None` after the last. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<OutboxRow>, BacklogError>> + Send;

    /// Makes the permanent slot.
    fn finish(self) -> impl Future<Output = Result<Self::Replication, BacklogError>> + Send;
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
        ReplicationConnection::connect(self, application_name).await
    }

    async fn begin_backlog(
        &self,
        replication: Self::Replication,
        sql: Self::Sql,
        columns: &ColumnNames,
    ) -> Result<Self::Backlog, BacklogError> {
        backlog::Backlog::begin(replication, sql, self, columns).await
    }
}

impl Sql for tokio_postgres::Client {
    async fn facts(&self, database: &SourceDatabase) -> Result<Facts, CatalogError> {
        Facts::read(self, &database.table, &database.publication).await
    }

    async fn create_publication(
        &self,
        database: &SourceDatabase,
        kind: TableKind,
    ) -> Result<bool, CatalogError> {
        catalog::create_publication(self, &database.publication, &database.table, kind).await
    }

    async fn create_slot(&self, slot: &str) -> Result<(), CatalogError> {
        catalog::create_slot(self, slot).await
    }

    async fn slot_progress(&self, slot: &str) -> Result<Option<SlotFacts>, CatalogError> {
        catalog::slot_progress(self, slot).await
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }
}

impl Replication for ReplicationConnection {
    type Stream = ReplicationStream;

    async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        self.identify_system().await
    }

    async fn confirmed_flush(&mut self, slot: &str) -> Result<Option<Lsn>, ReplicationError> {
        self.confirmed_flush(slot).await
    }

    async fn start(
        self,
        slot: &str,
        publication: &str,
        from: Lsn,
    ) -> Result<ReplicationStream, (Option<Self>, ReplicationError)> {
        self.start(slot, publication, from).await
    }
}

impl Stream for ReplicationStream {
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

    fn order(&self) -> BacklogOrder {
        self.order()
    }

    fn columns(&self) -> &[Column] {
        self.columns()
    }

    async fn next(&mut self) -> Result<Option<OutboxRow>, BacklogError> {
        self.next().await
    }

    async fn finish(self) -> Result<ReplicationConnection, BacklogError> {
        self.finish().await
    }
}
