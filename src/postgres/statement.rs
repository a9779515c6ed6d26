//! Plain SQL to the source's database: statements, their answers, and how they fail.
//!
//! Works with PostgreSQL 13 to 18. A catalog column that only later versions have is read through `to_jsonb(row) ->> 'column'`,
//! which is NULL where the column is missing, so that there is one query for all versions.
//! Knows no table and no slot: the rooms above do, each with its own statements.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use pg_replication::{WireError, simple_answer};

use super::statement_remedy;
use diagnostics::remedy::Remedy;

/// A statement failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The server refused, or the connection broke.
    #[error("{doing} failed")]
    Statement {
        /// What was being done, such as "reading the slots".
        doing: &'static str,
        /// Why.
        #[source]
        cause: WireError,
    },
    /// Somebody is using the slot.
    #[error(
        "slot {slot} is in use{}: stop the program that streams from it, then try again",
        holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default()
    )]
    SlotInUse {
        /// The slot.
        slot: String,
        /// Its holder, as a text; unknown when that ended just now.
        holder: Option<String>,
    },
    /// There is such a slot already.
    #[error("slot {0} exists already")]
    SlotExists(String),
    /// The server's answer is not what the query asks for.
    #[error("{doing}: the server's answer makes no sense: {what}")]
    Nonsense {
        /// What was being done.
        doing: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

impl CatalogError {
    /// The remedy, where it is known.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            CatalogError::Statement { cause, .. } => statement_remedy::of_statement(cause),
            _ => None,
        }
    }

    /// The remedy, when rows were to be parked.
    pub(crate) fn remedy_of_parking(&self) -> Option<Remedy> {
        match self {
            CatalogError::Statement { cause, .. } => statement_remedy::of_parking(cause),
            _ => None,
        }
    }

    /// SQLSTATE, where the server sent one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            CatalogError::Statement { cause, .. } => cause.sqlstate(),
            _ => None,
        }
    }
}

/// The error of an answer that is not what the query asks for.
pub(crate) fn nonsense(doing: &'static str, what: impl Into<String>) -> CatalogError {
    CatalogError::Nonsense { doing, what: what.into() }
}

pub(crate) fn failed(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> CatalogError {
    move |error| CatalogError::Statement { doing, cause: error.into() }
}

/// No timeout of role or database may end a session that waits for transactions or for the broker. Asking `pg_settings` leaves
/// out those that this version does not have: `idle_session_timeout` came with 14, `transaction_timeout` with 17.
pub(crate) const NO_TIMEOUTS: &str =
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN
    ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')";

/// Has the server refuse from now on what takes longer on this connection, or waits longer for a lock.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn limit_statements(client: &Client, to: Duration) -> Result<(), CatalogError> {
    let ms = to.as_millis().max(1);
    let limit = format!("SET statement_timeout = {ms}; SET lock_timeout = {ms}");
    client.batch_execute(&limit).await.map_err(failed("limiting how long statements may take"))
}

/// Stands for a name that is no UTF-8: all databases of a server list each other's names, and each name is stored in the encoding
/// of the database where it was given.
pub(crate) const IN_ANOTHER_ENCODING: &str = "(a name in another encoding)";

/// The rows of a statement as text, as a replication connection gives them, too.
pub(crate) async fn text_rows(
    client: &Client,
    doing: &'static str,
    sql: &str,
) -> Result<Vec<Vec<Option<String>>>, CatalogError> {
    let answers =
        simple_answer(client, sql).await.map_err(|cause| CatalogError::Statement { doing, cause })?;
    let rows = answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => {
            let unreadable = |_| Some(IN_ANOTHER_ENCODING);
            let text = |column| row.try_get(column).unwrap_or_else(unreadable).map(str::to_owned);
            Some((0..row.len()).map(text).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

/// Runs a statement; `false` when the server answers with the SQLSTATE that says: nothing to do.
pub(crate) async fn execute(
    client: &Client,
    doing: &'static str,
    sql: &str,
    idle: &str,
) -> Result<bool, CatalogError> {
    match client.batch_execute(sql).await {
        Ok(()) => Ok(true),
        Err(error) if error.code().is_some_and(|code| code.code() == idle) => Ok(false),
        Err(error) => Err(failed(doing)(error)),
    }
}
