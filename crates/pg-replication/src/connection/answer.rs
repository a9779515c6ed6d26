//! Whole answers of the simple protocol, up to a limit. [`sql_limits`](super::sql_limits) limits answers of the
//! extended protocol.

use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{
    sql_limits::{self, ROW_BYTES},
    wire_error::WireError,
};

/// Most bytes of the rows of one answer. Every caller expects few rows.
const SIMPLE_ANSWER_BYTES_MAX: usize = 16 << 20;
/// Bytes counted for a value that is not UTF-8 and whose length is therefore unknown: a name given in another
/// database.
const UNREADABLE_BYTES: usize = 256 << 10;

/// Bytes of the rows of one answer.
#[derive(Default)]
pub(crate) struct AnswerBytes(usize);

impl AnswerBytes {
    /// Counts a row, or whatever else is kept of an answer.
    ///
    /// # Errors
    /// The answer takes more than [`SIMPLE_ANSWER_BYTES_MAX`].
    pub(crate) fn add(&mut self, row: usize) -> Result<(), WireError> {
        self.0 = self.0.saturating_add(row).saturating_add(ROW_BYTES);
        sql_limits::check_answer(self.0, SIMPLE_ANSWER_BYTES_MAX)
    }
}

/// Runs a simple query and returns its rows, without the row descriptions.
///
/// # Errors
/// [`WireError::Server`] when the server refuses the query; [`WireError::Protocol`] when the rows take more than 16
/// MiB; otherwise the failure of the connection.
pub async fn simple_answer(client: &Client, query: &str) -> Result<Vec<SimpleQueryMessage>, WireError> {
    let mut messages = pin!(client.simple_query_raw(query).await?);
    let (mut answer, mut bytes) = (Vec::new(), AnswerBytes::default());
    while let Some(message) = messages.try_next().await? {
        let row = match &message {
            SimpleQueryMessage::Row(row) => {
                let bytes =
                    |column| row.try_get(column).map_or(UNREADABLE_BYTES, |text| text.map_or(0, str::len));
                (0..row.len()).map(bytes).sum()
            }
            SimpleQueryMessage::CommandComplete(_) => 0,
            _ => continue,
        };
        bytes.add(row)?;
        answer.push(message);
    }
    Ok(answer)
}
