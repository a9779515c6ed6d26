//! Effectively once: a message's id and its effect are committed by one transaction.
//!
//! The broker delivers at least once. Of the copies of a message, the first that commits has the effect; the others find its
//! source and id in the table `inbox` and have none. Two instances that hold the same message at the same time are told apart by that
//! table's primary key: the second waits for the first's transaction, then sees what became of it.

mod consumer;
mod dead_letters;
mod retention;

use std::fmt;

use tokio_postgres::{Client, Transaction};

pub use consumer::{Head, Progress, ProgressReader};
pub(super) use consumer::{Inbox, consume};
pub use dead_letters::{Redriven, redrive};
pub(super) use retention::{Retention, retain};

use super::{database::DatabaseError, trace::TraceContext};

/// A message, as a service sees it.
#[derive(Clone, Debug)]
pub struct Message {
    /// The same in every copy.
    pub id: String,
    /// What happened.
    pub event_type: String,
    /// Usually JSON.
    pub body: Vec<u8>,
    /// Which outbox it came from, if a relay said so.
    pub source: Option<String>,
    /// Where in that outbox: among positions of one source the greater is the later.
    pub position: Option<String>,
    /// When it was committed there, in seconds since 1970.
    pub committed_at: Option<i64>,
    /// Whether it was published again on purpose, by `outboxd replay`.
    pub replayed: bool,
    /// The step that its handling is.
    pub trace: TraceContext,
}

/// What a service does with messages.
pub trait Handler: Send + Sync + 'static {
    /// Whether a message that was published again on purpose (`outbox-replayed`) is handled although it was handled before, once
    /// for each replay. Only for effects that do not add up. Otherwise a replay brings what has no row in the inbox: what was never
    /// handled, and what was handled longer ago than `inbox_retention_s`.
    const TAKES_REPLAYS: bool = false;

    /// Brings the message's effect about, inside `transaction`, which also notes the message's id.
    fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> impl Future<Output = Result<(), HandlingError>> + Send;
}

/// Why a message had no effect.
#[derive(Debug, thiserror::Error)]
pub enum HandlingError {
    /// It never will have one: it is no event that this service understands.
    #[error("{0}")]
    Permanent(String),
    /// The database did not do its part; whether trying again helps is its [`DatabaseError::is_permanent`].
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<tokio_postgres::Error> for HandlingError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl HandlingError {
    /// For an event type that this service does not know.
    pub fn unknown_event(message: &Message) -> Self {
        Self::Permanent(format!("unknown event type '{}'", message.event_type))
    }

    /// Whether trying again is of no use.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Permanent(_) => true,
            Self::Database(error) => error.is_permanent(),
        }
    }
}

impl Message {
    /// The replay that brought the message: its position, which comes from the replay's own snapshot and so differs from one
    /// replay to the next. Empty for a message that comes by itself.
    fn replay(&self) -> &str {
        if self.replayed { self.position.as_deref().unwrap_or("without a position") } else { "" }
    }

    /// The body as JSON of this kind.
    ///
    /// # Errors
    ///
    /// Permanent, and says where the body is wrong.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, HandlingError> {
        payload(&self.event_type, &self.body)
    }
}

/// The payload of an event of this type, from its JSON.
///
/// # Errors
///
/// Permanent, and says where it is wrong.
pub fn payload<T: serde::de::DeserializeOwned>(event_type: &str, body: &[u8]) -> Result<T, HandlingError> {
    let invalid = |error: &dyn fmt::Display| {
        HandlingError::Permanent(format!("the body is no valid {event_type}: {error}"))
    };
    // serde would also take an array for a structure, its elements for the fields.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(invalid(&"an array, not an object"));
    }
    serde_json::from_slice(body).map_err(|error| invalid(&error))
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It had its effect now.
    Handled,
    /// It had its effect before.
    Duplicate,
    /// It will never have one, and is in `<queue>.dead`.
    Dead,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Duplicate => "duplicate",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Handles a message, unless `consumer` has done so before: either way it may be acknowledged afterwards.
///
/// # Errors
///
/// Nothing has changed then.
pub async fn apply_once<H: Handler>(
    client: &mut Client,
    consumer: &str,
    message: &Message,
    handler: &H,
) -> Result<Outcome, HandlingError> {
    let mut transaction = client.transaction().await?;
    let source = message.source.as_deref().unwrap_or_default();
    let replay = if H::TAKES_REPLAYS { message.replay() } else { "" };
    // Rows that version 0.1.0 wrote stand for every source.
    let note = "INSERT INTO public.inbox (consumer, source, message_id, replay) SELECT $1, $2, $3, $4 \
                WHERE NOT EXISTS (SELECT FROM public.inbox WHERE (consumer, source, message_id, replay) = ($1, '*', $3, $4)) \
                ON CONFLICT DO NOTHING";
    if transaction.execute(note, &[&consumer, &source, &message.id, &replay]).await? == 0 {
        return Ok(Outcome::Duplicate);
    }
    handler.handle(&mut transaction, message).await?;
    transaction.commit().await?;
    Ok(Outcome::Handled)
}
