//! Puts rows aside for [`Delivery`](super::delivery::Delivery), without holding the loop up: rows gather while a batch is on
//! its way. How many is bounded by the ledger, where each has its place until it is parked.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};

use super::{
    Fault,
    database::{Database, Sql},
};
use crate::{
    ledger::PublishTag,
    outbox::ParkedRow,
    position::Lsn,
    postgres::{catalog::CatalogError, error::ConnectError},
};

/// Rows of one transaction.
const BATCH_ROWS: usize = 100;

/// How long a batch may take: somebody may have locked the table, or a synchronous standby may be away.
const PARK_TIMEOUT: Duration = Duration::from_secs(30);

/// Why rows could not be put aside.
#[derive(Debug, thiserror::Error)]
pub enum ParkError {
    /// No SQL connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The table does not take them.
    #[error(transparent)]
    Table(#[from] CatalogError),
    /// No answer.
    #[error(
        "no answer within {} s: see what PostgreSQL is waiting for (pg_stat_activity, application_name outboxd...)",
        PARK_TIMEOUT.as_secs()
    )]
    TimedOut,
}

/// A row on its way, and its place in the ledger.
type Parking = (PublishTag, Arc<ParkedRow>);

/// Rows that are parked for good.
pub(super) struct Batch {
    /// The rows, and their places in the ledger.
    pub(super) rows: Vec<Parking>,
    /// They stand in WAL before this place.
    pub(super) before: Lsn,
}

/// Has a connection of its own for as long as there is something to put aside.
pub(super) struct Parker<D: Database> {
    database: D,
    application_name: String,
    waiting: VecDeque<Parking>,
    storing: Option<Storing<D::Sql>>,
}

/// A batch on its way.
struct Storing<C> {
    rows: Vec<Parking>,
    stored: BoxFuture<'static, Result<(C, Lsn), ParkError>>,
}

impl<D: Database> Parker<D> {
    pub(super) fn new(database: &D, application_name: String) -> Self {
        Self { database: database.clone(), application_name, waiting: VecDeque::new(), storing: None }
    }

    /// Takes a row over; it is on its way when [`next`](Self::next) is polled.
    pub(super) fn park(&mut self, tag: PublishTag, row: Arc<ParkedRow>) {
        self.waiting.push_back((tag, row));
    }

    /// The next rows that are parked for good. Cancel-safe. Pends for ever while there is nothing to do. After a fault it is
    /// of no more use.
    pub(super) async fn next(&mut self) -> Result<Batch, Fault> {
        if self.storing.is_none() && !self.waiting.is_empty() {
            self.storing = Some(self.batch(None));
        }
        let Some(storing) = &mut self.storing else { return std::future::pending().await };
        let stored = (&mut storing.stored).await;
        let rows = std::mem::take(&mut storing.rows);
        self.storing = None;
        match stored {
            Ok((connection, before)) => {
                if !self.waiting.is_empty() {
                    self.storing = Some(self.batch(Some(connection)));
                }
                Ok(Batch { rows, before })
            }
            Err(cause) => Err(Fault::NotParked { rows: rows.len(), cause: Box::new(cause) }),
        }
    }

    fn batch(&mut self, connection: Option<D::Sql>) -> Storing<D::Sql> {
        let count = self.waiting.len().min(BATCH_ROWS);
        let rows: Vec<Parking> = self.waiting.drain(..count).collect();
        let parked = rows.iter().map(|(_, row)| Arc::clone(row)).collect();
        let stored = store(self.database.clone(), connection, self.application_name.clone(), parked).boxed();
        Storing { rows, stored }
    }
}

/// Gives the connection back, for the next batch.
async fn store<D: Database>(
    database: D,
    connection: Option<D::Sql>,
    application_name: String,
    rows: Vec<Arc<ParkedRow>>,
) -> Result<(D::Sql, Lsn), ParkError> {
    let store = async {
        let sql = match connection {
            Some(sql) => sql,
            None => database.connect_sql(&application_name).await?,
        };
        let before = sql.park(database.options(), &rows).await?;
        Ok((sql, before))
    };
    tokio::time::timeout(PARK_TIMEOUT, store).await.unwrap_or(Err(ParkError::TimedOut))
}
