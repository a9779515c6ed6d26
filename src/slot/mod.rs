//! The replication slot of a source: how it stands, who uses it, what is recorded of it, what feeds it, and whether it is the one
//! that was there before.
//!
//! Knows plain SQL and the replication client. Knows nothing of rows, of messages, of RabbitMQ, or of when to try again.

pub mod continuity;
pub mod creation;
pub mod facts;
pub mod history;
pub mod invalidation;
pub mod open_transactions;
pub mod publication;
pub mod record;
pub mod temporary;
pub mod usage;
