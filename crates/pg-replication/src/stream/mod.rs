//! Replication commands and the copy stream.
//!
//! Knows XLogData, keepalives and status updates. Does not know the meaning of WAL data
//! ([`pgoutput`](crate::pgoutput) does), nor when a position may be acknowledged (the caller does).

pub(crate) mod answers;
pub(crate) mod connection;
pub(crate) mod copy;
pub(crate) mod error;
pub(crate) mod event;
mod status;
pub mod stored_text;
