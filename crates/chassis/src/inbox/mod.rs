//! Effectively-once handling: one transaction commits a message's id and its effect.
//!
//! The broker delivers at least once. The first copy of a message that commits has the effect. The others find its
//! source and id in the table `inbox` and have none. If two instances hold copies at the same time, that table's
//! primary key makes the second wait for the first one's transaction, and then see its result.

mod consumer;
mod dead_letters;
mod retention;

use std::{collections::BTreeMap, fmt, str::FromStr};

use tokio_postgres::{Client, Transaction};

pub use consumer::{Head, Progress, ProgressReader};
pub(super) use consumer::{Inbox, consume, message};
pub use dead_letters::{Redriven, redrive};
pub(super) use retention::{Retention, retain};

use super::{database::DatabaseError, trace::TraceContext};

/// Message as a service sees it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Id, the same in every copy.
    pub id: String,
    /// Event type.
    pub event_type: String,
    /// Body, usually JSON.
    pub body: Vec<u8>,
    /// Headers that are text of at most 255 bytes.
    pub headers: BTreeMap<String, String>,
    /// Outbox of the message, if the relay names it.
    pub source: Option<String>,
    /// Position in that outbox. Of one source the greater position is the later one.
    pub position: Option<String>,
    /// Commit time in the outbox, in seconds since 1970.
    pub committed_at: Option<i64>,
    /// Set when `outboxd replay` published the message again.
    pub replayed: bool,
    /// Step of the message's handling in its trace.
    pub trace: TraceContext,
}

/// Handler of a service's messages.
pub trait Handler: Send + Sync + 'static {
    /// Set to handle a replayed message (`outbox-replayed`) once for each replay, although it was handled before.
    /// Only for effects that do not add up. Without it a replay handles only messages without a row in the inbox:
    /// those never handled, and those handled longer ago than `inbox_retention_s`.
    const TAKES_REPLAYS: bool = false;

    /// Applies the message's effect inside `transaction`, which also records the message's id.
    fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> impl Future<Output = Result<(), HandlingError>> + Send;
}

/// Reason why a message had no effect.
#[derive(Debug, thiserror::Error)]
pub enum HandlingError {
    /// The message will never have an effect: this service does not understand it.
    #[error("{0}")]
    Permanent(String),
    /// Another store that the effect needs fails now. The message waits in its place and is tried again.
    #[error("{0}")]
    Transient(String),
    /// The database failed. [`DatabaseError::is_permanent`] tells whether a retry helps.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<tokio_postgres::Error> for HandlingError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl HandlingError {
    /// Returns the error of an unknown event type.
    pub fn unknown_event(message: &Message) -> Self {
        Self::Permanent(format!("unknown event type '{}'", message.event_type))
    }

    /// Tells whether a retry cannot help.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Permanent(_) => true,
            Self::Transient(_) => false,
            Self::Database(error) => error.is_permanent(),
        }
    }
}

impl Message {
    /// Returns the replay of the message: its position, which comes from the replay's own snapshot and so differs
    /// between replays. Empty for a message that was not replayed.
    fn replay(&self) -> &str {
        if self.replayed { self.position.as_deref().unwrap_or("without a position") } else { "" }
    }

    /// Returns a header that has to exist.
    ///
    /// # Errors
    ///
    /// [`HandlingError::Permanent`] names the header.
    pub fn required(&self, header: &str) -> Result<&str, HandlingError> {
        let text = self.headers.get(header).map(String::as_str);
        text.ok_or_else(|| {
            HandlingError::Permanent(format!("the header {header} is missing, is no text, or is too long"))
        })
    }

    /// Parses a header that has to exist.
    ///
    /// # Errors
    ///
    /// [`HandlingError::Permanent`] names the header.
    pub fn parsed<T: FromStr>(&self, header: &str) -> Result<T, HandlingError> {
        let text = self.required(header)?;
        text.parse().map_err(|_| HandlingError::Permanent(format!("the header {header} cannot be '{text}'")))
    }

    /// Parses the body as JSON.
    ///
    /// # Errors
    ///
    /// A permanent [`HandlingError`], which says where the body is wrong.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, HandlingError> {
        payload(&self.event_type, &self.body)
    }
}

/// Parses the payload of an event of this type from JSON.
///
/// # Errors
///
/// A permanent [`HandlingError`], which says where the payload is wrong.
pub fn payload<T: serde::de::DeserializeOwned>(event_type: &str, body: &[u8]) -> Result<T, HandlingError> {
    let invalid = |error: &dyn fmt::Display| {
        HandlingError::Permanent(format!("the body is not a valid {event_type}: {error}"))
    };
    // serde would read an array as a structure, its elements as the fields.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(invalid(&"an array, not an object"));
    }
    serde_json::from_slice(body).map_err(|error| invalid(&error))
}

/// Outcome of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The message had its effect now.
    Handled,
    /// The message had its effect before.
    Duplicate,
    /// The message will never have an effect, and is in `<queue>.dead`.
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

/// Handles a message, unless `consumer` has handled it before. Either way it may be acknowledged afterwards.
///
/// # Errors
///
/// [`HandlingError`], after which nothing has changed.
pub async fn apply_once<H: Handler>(
    client: &mut Client,
    consumer: &str,
    message: &Message,
    handler: &H,
) -> Result<Outcome, HandlingError> {
    let mut transaction = client.transaction().await?;
    let source = message.source.as_deref().unwrap_or_default();
    let replay = if H::TAKES_REPLAYS { message.replay() } else { "" };
    // Rows of version 0.1.0 (source '*') hold for every source.
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
