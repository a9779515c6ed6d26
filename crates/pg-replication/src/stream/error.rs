//! Failures of a replication connection.

use crate::connection::{
    connect_error::ConnectError,
    wire_error::{ServerError, WireError},
};

/// Failure of a replication connection.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// There was no connection to be had.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A command failed. After an error of the server the connection can be used again; after any other it cannot.
    #[error("{command} failed")]
    Command {
        /// The command's first words.
        command: String,
        /// Why.
        #[source]
        cause: WireError,
    },
    /// The copy stream broke.
    #[error("the replication stream broke")]
    Stream(#[source] WireError),
    /// The server ended the copy stream in order, which it does when it shuts down.
    #[error("the server ended the replication stream: it is shutting down")]
    Ended,
}

impl ReplicationError {
    /// SQLSTATE, where the server sent one: `55006` for a slot in use, `57P01` for a shutdown or a terminated backend.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|error| error.code.as_str())
    }

    /// The server's own words, where it was the server who refused.
    pub fn server(&self) -> Option<&ServerError> {
        self.cause().and_then(WireError::server)
    }

    /// A command whose answer is not `expected`.
    pub fn unexpected_answer(command: &str, expected: &str) -> Self {
        ReplicationError::Command {
            command: command.to_owned(),
            cause: WireError::protocol(format!("the answer is not {expected}")),
        }
    }

    /// The failure of a command, by its first words.
    pub(crate) fn of_command(sql: &str, cause: WireError) -> Self {
        const WORDS: usize = 2;
        let command = sql.split_whitespace().take(WORDS).collect::<Vec<_>>().join(" ");
        ReplicationError::Command { command, cause }
    }

    /// The failure of the connection below, whatever was being done.
    pub fn cause(&self) -> Option<&WireError> {
        match self {
            ReplicationError::Connect(error) => Some(&error.cause),
            ReplicationError::Command { cause, .. } | ReplicationError::Stream(cause) => Some(cause),
            ReplicationError::Ended => None,
        }
    }
}
