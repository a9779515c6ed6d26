//! Creation of a slot. PostgreSQL waits for every transaction that is open at that time, in any database of the server. The
//! operator is told which ones.

use std::{pin::pin, time::Duration};

use super::database::{Database, Sql};
use crate::slot::open_transactions;

/// Time after which a creation counts as waiting.
const PATIENCE: Duration = Duration::from_secs(2);

/// Interval between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Longest duration of one look.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Runs `creation` to its end. While PostgreSQL waits for other transactions, `tell` gets the reason after each look. Cancel-safe
/// if `creation` is.
pub async fn watch_slot_creation<T>(
    database: &impl Database,
    application_name: &str,
    creation: impl Future<Output = T>,
    tell: impl Fn(String),
) -> T {
    let mut creation = pin!(creation);
    let looking = async {
        tokio::time::sleep(PATIENCE).await;
        loop {
            if let Err(error) = look(database, application_name, &tell).await {
                tracing::debug!(%error, "the transactions that the creation of the slot waits for could not be read; trying again");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    // Priorities: (1) the creation; (2) looks at the transactions.
    tokio::select! {
        biased;
        created = &mut creation => created,
        () = looking => creation.await,
    }
}

async fn look(
    database: &impl Database,
    application_name: &str,
    tell: &impl Fn(String),
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let sql = tokio::time::timeout(LOOK_MAX, database.connect_sql(application_name)).await??;
    let slot = &database.options().slot;
    loop {
        let awaited = tokio::time::timeout(LOOK_MAX, sql.awaited_transactions(slot)).await??;
        if let Some(reason) = open_transactions::reason(slot, &awaited) {
            tell(reason);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
