//! `order-history rebuild`: drops the view and makes it anew. Readers see the old one until the new one is complete.

use tokio_postgres::Transaction;

use super::view::Change;
use crate::{
    chassis::{database::Database, inbox::HandlingError, settings::Settings},
    failure::Failure,
};

/// Rebuilds the view from the events that the service has retained, in one transaction. The service may be running: its consumers
/// wait. Gives the number of events applied.
pub async fn rebuild(settings: Settings) -> Result<u64, Failure> {
    let failed = |error: HandlingError| Failure::Runtime(format!("the view is as it was: {error}"));
    rebuilt(settings).await.map_err(failed)
}

async fn rebuilt(settings: Settings) -> Result<u64, HandlingError> {
    let database = Database::new(settings.database, settings.name, 1)?;
    let mut connection = database.connection().await?;
    super::migrate(&mut connection).await?;
    let transaction = connection.transaction().await?;
    // Who applies an event writes to this table first.
    let clear = "LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE; DELETE FROM orders; DELETE FROM customers";
    transaction.batch_execute(clear).await?;
    let applied = apply_retained(&transaction).await?;
    transaction.commit().await?;
    Ok(applied)
}

async fn apply_retained(transaction: &Transaction<'_>) -> Result<u64, HandlingError> {
    let mut applied = 0;
    let mut after = 0_i64;
    loop {
        let select = "SELECT seq, event_type, body FROM events WHERE seq > $1 ORDER BY seq LIMIT 1000";
        let rows = transaction.query(select, &[&after]).await?;
        let Some(last) = rows.last() else { return Ok(applied) };
        after = last.get("seq");
        for row in &rows {
            let (event_type, body): (&str, &[u8]) = (row.get("event_type"), row.get("body"));
            Change::of(event_type, body)?.apply(transaction).await?;
            applied += 1;
        }
    }
}
