//! Rows from the table, where the stream has none: those that are older than the slot, and those that are wanted once more.
//!
//! Knows the table and the slot. Knows nothing of messages, of confirms, or of retry policy.

pub mod backlog;
pub mod publish;
pub mod recover;
pub mod replay;
pub mod snapshot;
