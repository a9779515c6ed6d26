//! Removing rows whose messages are confirmed (`cleanup.mode = "delete"`).

mod statements;

pub use statements::{Cleanup, CleanupError, Pass, Seen, SeenRow, Statements, grant_sql, remove, search};
pub(crate) use statements::{time_column, unpublished};
