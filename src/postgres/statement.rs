//! Plain SQL to the source's database: statements, their answers, and their failures.
//!
//! Works with PostgreSQL 13 to 18. One query serves all versions: a catalog column of later versions only is read through
//! `to_jsonb(row) ->> 'column'`, which is NULL without the column. Does not know tables or slots: the rooms above have their own
//! statements.

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
        /// Operation, such as "reading the slots".
        doing: &'static str,
        /// Cause.
        #[source]
        cause: WireError,
    },
    /// The server's answer does not fit the query.
    #[error("{doing}: unexpected answer from the server: {what}")]
    Nonsense {
        /// Operation.
        doing: &'static str,
        /// Fault of the answer.
        what: String,
    },
}

impl CatalogError {
    /// The remedy, if known.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            CatalogError::Statement { cause, .. } => statement_remedy::of_statement(cause),
            _ => None,
        }
    }

    /// The remedy of a failure to park rows.
    pub(crate) fn remedy_of_parking(&self) -> Option<Remedy> {
        match self {
            CatalogError::Statement { cause, .. } => statement_remedy::of_parking(cause),
            _ => None,
        }
    }

    /// SQLSTATE, if the server sent one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            CatalogError::Statement { cause, .. } => cause.sqlstate(),
            _ => None,
        }
    }
}

/// The error of an answer that does not fit the query.
pub(crate) fn nonsense(doing: &'static str, what: impl Into<String>) -> CatalogError {
    CatalogError::Nonsense { doing, what: what.into() }
}

/// Maps the error of a statement, for `map_err`.
pub(crate) fn failed(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> CatalogError {
    move |error| CatalogError::Statement { doing, cause: error.into() }
}

/// Switches off the timeouts of role and database, for a session that waits for transactions or for the broker. `pg_settings`
/// leaves out settings that the version lacks: `idle_session_timeout` came with 14, `transaction_timeout` with 17.
pub(crate) const NO_TIMEOUTS: &str =
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN
    ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')";

/// Sets the server's limits for statements and lock waits on this connection.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn limit_statements(client: &Client, to: Duration) -> Result<(), CatalogError> {
    let ms = to.as_millis().max(1);
    let limit = format!("SET statement_timeout = {ms}; SET lock_timeout = {ms}");
    client.batch_execute(&limit).await.map_err(failed("setting the statement timeout"))
}

/// Placeholder for a name that is not UTF-8. Every database of a server sees the names of the others, each in the encoding of the
/// database in which it was given.
pub(crate) const IN_ANOTHER_ENCODING: &str = "(a name in another encoding)";

/// Reads the rows of a statement as text, as a replication connection does.
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

/// Runs a statement. Returns `false` if the server answers with the SQLSTATE `idle`, which means that there is nothing to do.
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
