//! Rebuild: builds the view again from retained events. Readers see the old one until the new one is complete.

use std::fmt;

use tokio_postgres::Transaction;

use super::{Change, Place, Store, generation};
use chassis::{database::Database, inbox::HandlingError, schema::Schema, settings::Settings};
use process::{failure::Failure, shutdown::StopSignals};

/// Result of a rebuild. Displayed for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// The program, which advice names.
    program: &'static str,
    /// Applied events.
    pub applied: u64,
    /// Invalid events, each in the log.
    pub left_out: u64,
    /// Customers and orders of the old view that the new one lacks.
    pub gone: i64,
}

/// Rebuilds the view from the retained events. Dropped tables are created first. The service may be running: its
/// consumers wait, because the transaction holds the retained events.
///
/// # Errors
///
/// [`Failure`], after which the view is unchanged.
pub async fn rebuild<S: Store>(settings: Settings, schema: &Schema, store: S) -> Result<Rebuilt, Failure> {
    let mut stop = StopSignals::listen().map_err(|error| Failure::runtime(&error))?;
    let program = settings.base.name;
    let rebuilt = tokio::select! {
        rebuilt = rebuilt(settings, schema, &store) => rebuilt,
        signal = stop.next() => {
            return Err(Failure::Runtime(format!("stopped by {signal} before the rebuild was complete; the view is as it was")));
        }
    };
    match rebuilt {
        Ok(Some((rebuilt, generation))) => {
            if let Err(error) = store.keep_only(generation).await {
                tracing::warn!(%error, "the old view could not be removed; nobody reads it, and the next rebuild removes it");
            }
            Ok(rebuilt)
        }
        Ok(None) => Err(Failure::Runtime(format!(
            "the view is as it was: no event is retained here (table events is empty) to make it from; {}",
            replay(program)
        ))),
        Err(error) => Err(Failure::Runtime(format!("the view is as it was: {error}"))),
    }
}

/// Rebuilds the view and returns its generation; `None` without retained events.
async fn rebuilt<S: Store>(
    settings: Settings,
    schema: &Schema,
    store: &S,
) -> Result<Option<(Rebuilt, i64)>, HandlingError> {
    let database = Database::new(settings.database, settings.base.name, 1)?;
    let mut connection = database.connection().await?;
    schema.migrate(&mut connection).await?;
    let transaction = connection.transaction().await?;
    // An event's handler writes to this table first.
    transaction.batch_execute("LOCK TABLE public.events IN SHARE ROW EXCLUSIVE MODE").await?;
    if transaction.query_opt("SELECT FROM public.events LIMIT 1", &[]).await?.is_none() {
        return Ok(None);
    }
    let current = generation::current(&transaction).await?;
    let generation = current + 1;
    let old = Place { transaction: &transaction, generation: current };
    let new = Place { transaction: &transaction, generation };
    let before = store.size(old).await?;
    store.clear(new).await?;
    let (applied, left_out) = apply_retained(&transaction, store, new).await?;
    let gone = (before - store.size(new).await?).max(0);
    transaction.execute("UPDATE public.view_generation SET generation = $1", &[&generation]).await?;
    transaction.commit().await?;
    Ok(Some((Rebuilt { program: settings.base.name, applied, left_out, gone }, generation)))
}

/// Applies every retained event, and returns how many were applied and how many left out.
async fn apply_retained<S: Store>(
    transaction: &Transaction<'_>,
    store: &S,
    place: Place<'_>,
) -> Result<(u64, u64), HandlingError> {
    let (mut applied, mut left_out) = (0, 0);
    let mut after = 0_i64;
    loop {
        let select = "SELECT seq, message_id, event_type, body FROM public.events WHERE seq > $1 ORDER BY seq LIMIT 1000";
        let rows = transaction.query(select, &[&after]).await?;
        let Some(last) = rows.last() else { return Ok((applied, left_out)) };
        after = last.get("seq");
        for row in &rows {
            let (event_type, body): (&str, &[u8]) = (row.get("event_type"), row.get("body"));
            let outcome = match Change::of(event_type, body) {
                Ok(change) => store.apply(place, &change).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => applied += 1,
                // An earlier version accepted it. The transaction continues, because no statement has failed.
                Err(HandlingError::Permanent(reason)) => {
                    let message_id: &str = row.get("message_id");
                    tracing::warn!(
                        message_id,
                        event_type,
                        reason,
                        "a retained event cannot be applied and is left out of the view; it stays in the table events"
                    );
                    left_out += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Returns the advice for events that are not retained.
fn replay(program: &str) -> String {
    format!(
        "to restore what the services still have, keep {program} running and publish their events again: outboxd replay --source \
         orders, and outboxd replay --source customers"
    )
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, applied, left_out, gone } = self;
        write!(f, "the view was rebuilt from {applied} events")?;
        if *left_out > 0 {
            write!(f, "\nevents left out because they are invalid (the log has each): {left_out}")?;
        }
        if *gone > 0 {
            write!(
                f,
                "\ncustomers and orders that the view had before, and that no retained event tells of: {gone}; {}",
                replay(program)
            )?;
        }
        Ok(())
    }
}
