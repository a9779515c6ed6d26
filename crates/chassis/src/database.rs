//! A service's connections to its own database.

use std::{fmt, time::Duration};

use deadpool::{
    Runtime,
    managed::{self, BuildError, Metrics, PoolError, RecycleError, RecycleResult},
};
use tokio_postgres::{Client, error::SqlState};

use pg_replication::{ConnectError, Endpoint};

/// How long a caller waits for a connection to become free, or to be made.
const WAIT: Duration = Duration::from_secs(5);

/// A bounded number of connections, made when they are needed and used again.
#[derive(Clone)]
pub struct Database {
    pool: managed::Pool<Connector>,
}

/// A connection on loan; a [`Client`] in all but name.
pub type Connection = managed::Object<Connector>;

/// Makes the connections of a [`Database`].
pub struct Connector {
    endpoint: Endpoint,
    application_name: &'static str,
}

/// What can go wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No connection can be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// All connections were in use for too long.
    #[error("no connection to the database became free within {} s", WAIT.as_secs())]
    Busy,
    /// This program has no runtime to wait in.
    #[error(transparent)]
    Pool(#[from] BuildError),
    /// The service's tables are in another schema than `public`. New ones would be empty: messages that were handled would be
    /// handled again.
    #[error(
        "the service's tables are in schema {schema}, and not in public, where this version has them. Nothing is handled until they \
         are moved: BEGIN; {move_sql} COMMIT; If they belong to another service, give this one a database or a role of its own"
    )]
    Elsewhere {
        /// The schema.
        schema: String,
        /// The statements that move them.
        move_sql: String,
    },
    /// A statement failed, or the connection with it.
    #[error("the database: {}", said(.0))]
    Statement(#[from] tokio_postgres::Error),
}

impl Database {
    /// Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// When connections cannot be waited for in this runtime.
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

    /// A connection, as soon as one is free.
    ///
    /// # Errors
    ///
    /// When the database cannot be reached, or all connections stay in use for five seconds.
    pub async fn connection(&self) -> Result<Connection, DatabaseError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => DatabaseError::Connect(error),
            _ => DatabaseError::Busy,
        })
    }
}

impl DatabaseError {
    /// Whether the same statements will fail again however often they are tried: the data is at fault, not the database.
    /// Classes of SQLSTATE: 22, data exception; 23, integrity constraint violation (manual, "PostgreSQL Error Codes").
    pub fn is_permanent(&self) -> bool {
        let Self::Statement(error) = self else { return false };
        let class = error.code().map(|state| &state.code()[..2]);
        matches!(class, Some("22" | "23"))
    }

    /// Whether it is the database's state that does not allow it now: it is ending or starting, out of resources, read-only, or gone.
    /// Classes 08, 40, 53 and 57, and 25006.
    pub fn is_unavailable(&self) -> bool {
        let Self::Statement(error) = self else { return true };
        let code = error.code().map(SqlState::code);
        error.is_closed()
            || code.is_some_and(|code| code == "25006" || ["08", "40", "53", "57"].contains(&&code[..2]))
    }
}

/// `db error` alone says nothing: the server's own words, or what the driver knows.
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
