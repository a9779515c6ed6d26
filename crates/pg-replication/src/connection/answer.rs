//! Answers of the simple protocol that are kept whole, up to a limit. Those of the extended one are limited by
//! [`sql_limits`](super::sql_limits).

use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{
    sql_limits::{self, ROW_BYTES},
    wire_error::WireError,
};

/// Bytes of the rows of one such answer. All of them have few rows.
const SIMPLE_ANSWER_BYTES_MAX: usize = 16 << 20;
/// Counted for a value that is no UTF-8, whose length nobody tells: a name that was given in another database.
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

/// The whole answer to a simple query, without the descriptions of its rows.
///
/// # Errors
/// Also when it is too long to be kept.
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
