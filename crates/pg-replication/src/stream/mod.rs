//! Replication commands and the copy stream.
//!
//! Knows XLogData, keepalives and status updates. Does not know what WAL data means, which is
//! [`pgoutput`](crate::pgoutput)'s, nor when a position may be acknowledged, which is the caller's.

pub(crate) mod answers;
pub(crate) mod connection;
pub(crate) mod copy;
pub(crate) mod error;
pub(crate) mod event;
mod status;
pub mod stored_text;
