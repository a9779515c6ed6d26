//! Connections of a service to its own database.

use std::{fmt, time::Duration};

use deadpool::{
    Runtime,
    managed::{self, BuildError, Metrics, PoolError, RecycleError, RecycleResult},
};
use tokio_postgres::{Client, error::SqlState};

use pg_replication::{ConnectError, Endpoint};

/// Limit for waiting for a free connection, or for a new one.
const WAIT: Duration = Duration::from_secs(5);

/// Bounded pool of connections, opened when needed.
#[derive(Clone)]
pub struct Database {
    pool: managed::Pool<Connector>,
}

/// Borrowed connection, which dereferences to [`Client`].
pub type Connection = managed::Object<Connector>;

/// Opens the connections of a [`Database`].
pub struct Connector {
    endpoint: Endpoint,
    application_name: &'static str,
}

/// Error of the database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A connection cannot be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// All connections were in use for too long.
    #[error("no connection to the database became free within {} s", WAIT.as_secs())]
    Busy,
    /// The program has no runtime to wait in.
    #[error(transparent)]
    Pool(#[from] BuildError),
    /// The service's tables are in another schema than `public`. New ones would be empty, so handled messages would
    /// be handled again.
    #[error(
        "the service's tables are in schema {schema}, but this version expects them in public. No message is handled until they are \
         moved: BEGIN; {move_sql} COMMIT; If they belong to another service, give this service a database or a role of its own"
    )]
    Elsewhere {
        /// The schema.
        schema: String,
        /// Statements that move the tables.
        move_sql: String,
    },
    /// A statement failed, or the connection with it.
    #[error("the database: {}", said(.0))]
    Statement(#[from] tokio_postgres::Error),
}

impl Database {
    /// Creates a pool without a connection.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] when the runtime has no timers.
    pub fn new(
        endpoint: Endpoint,
        application_name: &'static str,
        connections_max: usize,
    ) -> Result<Self, DatabaseError> {
        let pool = managed::Pool::builder(Connector { endpoint, application_name })
            .max_size(connections_max)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(WAIT))
            .build()?;
        Ok(Self { pool })
    }

    /// Returns a connection as soon as one is free.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] when the database cannot be reached, or no connection becomes free within five seconds.
    pub async fn connection(&self) -> Result<Connection, DatabaseError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => DatabaseError::Connect(error),
            _ => DatabaseError::Busy,
        })
    }
}

impl DatabaseError {
    /// Tells whether a retry cannot help, because the data is at fault. SQLSTATE classes 22, data exception, and 23,
    /// integrity constraint violation (manual, "PostgreSQL Error Codes").
    pub fn is_permanent(&self) -> bool {
        let Self::Statement(error) = self else { return false };
        let class = error.code().map(|state| &state.code()[..2]);
        matches!(class, Some("22" | "23"))
    }

    /// Tells whether the database's state prevents the statement now: it is starting or stopping, out of resources,
    /// read-only, or gone. SQLSTATE classes 08, 40, 53 and 57, and 25006.
    pub fn is_unavailable(&self) -> bool {
        let Self::Statement(error) = self else { return true };
        let code = error.code().map(SqlState::code);
        error.is_closed()
            || code.is_some_and(|code| code == "25006" || ["08", "40", "53", "57"].contains(&&code[..2]))
    }
}

/// Returns the server's message, or the driver's, because the driver's `db error` alone says nothing.
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
        None => diagnostics::chain(error),
    }
}

impl managed::Manager for Connector {
    type Type = Client;
    type Error = ConnectError;

    async fn create(&self) -> Result<Client, ConnectError> {
        self.endpoint.connect_sql(self.application_name).await
    }

    async fn recycle(&self, client: &mut Client, _: &Metrics) -> RecycleResult<ConnectError> {
        if client.is_closed() {
            return Err(RecycleError::message("the server closed it"));
        }
        Ok(())
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("connections", &self.pool.status()).finish()
    }
}
