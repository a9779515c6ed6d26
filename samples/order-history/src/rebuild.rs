//! `order-history rebuild`: drops the view and makes it anew. Readers see the old one until the new one is complete.

use std::fmt;

use tokio_postgres::Transaction;

use super::view::Change;
use chassis::{
    database::{Database, DatabaseError},
    inbox::HandlingError,
    settings::Settings,
};
use process::{failure::Failure, shutdown::StopSignals};

/// Where events come from that are not retained here.
const REPLAY: &str = "to bring back what the services still have, let order-history run, and publish their events again: \
                      outboxd replay --source orders, and outboxd replay --source customers";

/// A view that was made anew. Displayed as what there is to say about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Events that were applied.
    pub applied: u64,
    /// Events that make no sense; the log has each.
    pub left_out: u64,
    /// Customers and orders that the view had before and has no longer.
    pub gone: i64,
}

/// Rebuilds the view from the events that the service has retained, in one transaction. Tables that were dropped are made first. The
/// service may be running: its consumers wait.
///
/// # Errors
///
/// The view is as it was.
pub async fn rebuild(settings: Settings) -> Result<Rebuilt, Failure> {
    let mut stop = StopSignals::listen().map_err(|error| Failure::runtime(&error))?;
    let rebuilt = tokio::select! {
        rebuilt = rebuilt(settings) => rebuilt,
        signal = stop.next() => {
            return Err(Failure::Runtime(format!("ended by {signal} before it was done; the view is as it was")));
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

/// `None` when nothing is retained.
async fn rebuilt(settings: Settings) -> Result<Option<Rebuilt>, DatabaseError> {
    let database = Database::new(settings.database, settings.name, 1)?;
    let mut connection = database.connection().await?;
    super::migrate(&mut connection).await?;
    let transaction = connection.transaction().await?;
    // Who applies an event writes to this table first.
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
                // An earlier version took it. The transaction goes on: no statement has failed.
                Err(HandlingError::Permanent(reason)) => {
                    let message_id: &str = row.get("message_id");
                    tracing::warn!(
                        message_id,
                        event_type,
                        reason,
                        "a retained event cannot be applied and is left out of the view; it stays in the table of events"
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
        write!(f, "the view has been made anew from {applied} events")?;
        if *left_out > 0 {
            write!(f, "\nevents left out, as they make no sense (the log has each): {left_out}")?;
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
