//! Generation of a view: the number of the rebuild that made it.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tokio_postgres::Transaction;

use chassis::{
    database::{Database, DatabaseError},
    inbox::HandlingError,
};

/// Stands for a generation that was never read.
const UNKNOWN: i64 = -1;

const SELECT: &str = "SELECT generation FROM public.view_generation";

/// Reads the current generation for queries. Clones share the last known one.
#[derive(Clone, Debug)]
pub struct Generations {
    database: Database,
    last: Arc<AtomicI64>,
}

impl Generations {
    /// Reads from this database.
    pub fn new(database: Database) -> Self {
        Self { database, last: Arc::new(AtomicI64::new(UNKNOWN)) }
    }

    /// Queries the current generation. `None` from `query` means that it found nothing.
    ///
    /// A rebuild that ends meanwhile removes the generation in use. So nothing counts only when the generation is
    /// still the same afterwards.
    ///
    /// # Errors
    ///
    /// [`HandlingError`] of `query`, or when the database is away and the generation was never read.
    pub async fn query<T, F>(&self, query: impl Fn(i64) -> F + Send) -> Result<Option<T>, HandlingError>
    where
        F: Future<Output = Result<Option<T>, HandlingError>> + Send,
    {
        let mut generation = self.current().await?;
        loop {
            if let Some(found) = query(generation).await? {
                return Ok(Some(found));
            }
            let now = self.current().await?;
            if std::mem::replace(&mut generation, now) == now {
                return Ok(None);
            }
        }
    }

    /// Returns the current generation; while the database is away the last known one, so that the view still answers.
    async fn current(&self) -> Result<i64, DatabaseError> {
        let read = async {
            let client = self.database.connection().await?;
            Ok::<i64, DatabaseError>(client.query_one(SELECT, &[]).await?.get(0))
        };
        match read.await {
            Ok(generation) => {
                self.last.store(generation, Ordering::Relaxed);
                Ok(generation)
            }
            Err(error) => match self.last.load(Ordering::Relaxed) {
                UNKNOWN => Err(error),
                last => {
                    tracing::warn!(%error, "the view answers, and cannot see whether a rebuild has replaced it");
                    Ok(last)
                }
            },
        }
    }
}

/// Reads the current generation, as the transaction sees it.
pub(super) async fn current(transaction: &Transaction<'_>) -> Result<i64, DatabaseError> {
    Ok(transaction.query_one(SELECT, &[]).await?.get(0))
}
