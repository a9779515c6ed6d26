//! `order-history rebuild`: builds the view again. Readers see the old one until the new one is complete.

use std::fmt;

use tokio_postgres::Transaction;

use super::view::Change;
use chassis::{
    database::{Database, DatabaseError},
    inbox::HandlingError,
    settings::Settings,
};
use process::{failure::Failure, shutdown::StopSignals};

/// Advice for events that are not retained.
const REPLAY: &str = "to restore what the services still have, keep order-history running and publish their events again: \
                      outboxd replay --source orders, and outboxd replay --source customers";

/// Result of a rebuild. Displayed for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Applied events.
    pub applied: u64,
    /// Invalid events, each in the log.
    pub left_out: u64,
    /// Customers and orders of the old view that the new one lacks.
    pub gone: i64,
}

/// Rebuilds the view from the retained events in one transaction. Dropped tables are created first. The service may
/// be running: its consumers wait.
///
/// # Errors
///
/// [`Failure`], after which the view is unchanged.
pub async fn rebuild(settings: Settings) -> Result<Rebuilt, Failure> {
    let mut stop = StopSignals::listen().map_err(|error| Failure::runtime(&error))?;
    let rebuilt = tokio::select! {
        rebuilt = rebuilt(settings) => rebuilt,
        signal = stop.next() => {
            return Err(Failure::Runtime(format!("stopped by {signal} before the rebuild was complete; the view is as it was")));
        }
    };
    match rebuilt {
        Ok(Some(rebuilt)) => Ok(rebuilt),
        Ok(None) => Err(Failure::Runtime(format!(
            "the view is as it was: no event is retained here (table events is empty) to make it from; {REPLAY}"
        ))),
        Err(error) => Err(Failure::Runtime(format!("the view is as it was: {error}"))),
    }
}

/// Rebuilds the view; `None` without retained events.
async fn rebuilt(settings: Settings) -> Result<Option<Rebuilt>, DatabaseError> {
    let database = Database::new(settings.database, settings.base.name, 1)?;
    let mut connection = database.connection().await?;
    super::migrate(&mut connection).await?;
    let transaction = connection.transaction().await?;
    // An event's handler writes to this table first.
    transaction.batch_execute("LOCK TABLE public.events IN SHARE ROW EXCLUSIVE MODE").await?;
    if transaction.query_opt("SELECT FROM public.events LIMIT 1", &[]).await?.is_none() {
        return Ok(None);
    }
    let before = size(&transaction).await?;
    transaction.batch_execute("DELETE FROM public.orders; DELETE FROM public.customers").await?;
    let mut rebuilt = apply_retained(&transaction).await?;
    rebuilt.gone = (before - size(&transaction).await?).max(0);
    transaction.commit().await?;
    Ok(Some(rebuilt))
}

async fn size(transaction: &Transaction<'_>) -> Result<i64, DatabaseError> {
    let select = "SELECT (SELECT count(*) FROM public.orders) + (SELECT count(*) FROM public.customers)";
    Ok(transaction.query_one(select, &[]).await?.get(0))
}

async fn apply_retained(transaction: &Transaction<'_>) -> Result<Rebuilt, DatabaseError> {
    let mut rebuilt = Rebuilt::default();
    let mut after = 0_i64;
    loop {
        let select = "SELECT seq, message_id, event_type, body FROM public.events WHERE seq > $1 ORDER BY seq LIMIT 1000";
        let rows = transaction.query(select, &[&after]).await?;
        let Some(last) = rows.last() else { return Ok(rebuilt) };
        after = last.get("seq");
        for row in &rows {
            let (event_type, body): (&str, &[u8]) = (row.get("event_type"), row.get("body"));
            let applied = match Change::of(event_type, body) {
                Ok(change) => change.apply(transaction).await,
                Err(error) => Err(error),
            };
            match applied {
                Ok(()) => rebuilt.applied += 1,
                // An earlier version accepted it. The transaction continues, because no statement has failed.
                Err(HandlingError::Permanent(reason)) => {
                    let message_id: &str = row.get("message_id");
                    tracing::warn!(
                        message_id,
                        event_type,
                        reason,
                        "a retained event cannot be applied and is left out of the view; it stays in the table events"
                    );
                    rebuilt.left_out += 1;
                }
                Err(HandlingError::Database(error)) => return Err(error),
            }
        }
    }
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { applied, left_out, gone } = self;
        write!(f, "the view was rebuilt from {applied} events")?;
        if *left_out > 0 {
            write!(f, "\nevents left out because they are invalid (the log has each): {left_out}")?;
        }
        if *gone > 0 {
            write!(
                f,
                "\ncustomers and orders that the view had before, and that no retained event tells of: {gone}; {REPLAY}"
            )?;
        }
        Ok(())
    }
}
