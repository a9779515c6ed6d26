//! Clean-up: removes rows whose messages are confirmed (`cleanup.mode = "delete"`). The statements, and the task that sets their pace.

mod statements;
pub(crate) mod task;

pub use statements::{CleanupError, Pass, Seen, SeenRow, Statements, remove, search};
pub(crate) use statements::{grant_sql, time_column, unpublished};
