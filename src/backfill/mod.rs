//! Rows read from the table: those older than the slot, and those to be published again.
//!
//! `backlog` and `snapshot` know the table and the slot, and no messages. `publish`, `recover` and `replay` pass rows to the relay's
//! delivery. Does not know the stream.

pub mod backlog;
pub mod publish;
pub mod recover;
pub mod replay;
pub mod snapshot;
