//! Failures of a replication connection.

use crate::connection::{
    connect_error::ConnectError,
    wire_error::{ServerError, WireError},
};

/// Failure of a replication connection.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The connection could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A command failed. The connection remains usable only after an error of the server.
    #[error("{command} failed")]
    Command {
        /// The command's first words.
        command: String,
        /// The cause.
        #[source]
        cause: WireError,
    },
    /// The copy stream broke.
    #[error("the replication stream broke")]
    Stream(#[source] WireError),
    /// The server ended the copy stream in order, as at its shutdown.
    #[error("the server ended the replication stream: it is shutting down")]
    Ended,
}

impl ReplicationError {
    /// Returns the SQLSTATE of a server's error, such as [`OBJECT_IN_USE`](crate::sqlstate::OBJECT_IN_USE) for a slot
    /// in use.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|error| error.code.as_str())
    }

    /// Returns the server's error.
    pub fn server(&self) -> Option<&ServerError> {
        self.cause().and_then(WireError::server)
    }

    /// Returns the error of a command whose answer is not `expected`.
    pub fn unexpected_answer(command: &str, expected: &str) -> Self {
        ReplicationError::Command {
            command: command.to_owned(),
            cause: WireError::protocol(format!("the answer is not {expected}")),
        }
    }

    /// Returns the error of a command, named by its first words.
    pub(crate) fn of_command(sql: &str, cause: WireError) -> Self {
        const WORDS: usize = 2;
        let command = sql.split_whitespace().take(WORDS).collect::<Vec<_>>().join(" ");
        ReplicationError::Command { command, cause }
    }

    /// Returns the failure of the underlying connection.
    pub fn cause(&self) -> Option<&WireError> {
        match self {
            ReplicationError::Connect(error) => Some(&error.cause),
            ReplicationError::Command { cause, .. } | ReplicationError::Stream(cause) => Some(cause),
            ReplicationError::Ended => None,
        }
    }
}
