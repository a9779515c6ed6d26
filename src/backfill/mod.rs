//! Rows from the table, where the stream has none: those that are older than the slot, and those that are wanted once more.
//!
//! `backlog` and `snapshot` know the table and the slot, and nothing of messages. `publish`, `recover` and `replay` hand rows to the
//! relay's delivery. Knows nothing of the stream.

pub mod backlog;
pub mod publish;
pub mod recover;
pub mod replay;
pub mod snapshot;
