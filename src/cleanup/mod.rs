//! Removing rows whose messages are confirmed (`cleanup.mode = "delete"`).

mod statements;
pub(crate) mod task;

pub use statements::{CleanupError, Pass, Seen, SeenRow, Statements, remove, search};
pub(crate) use statements::{grant_sql, time_column, unpublished};
