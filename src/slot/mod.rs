//! The replication slot of a source: its facts, its holder, its record, its publication, and the check that it is still the same slot.
//!
//! Knows plain SQL and the replication client. Does not know rows, messages, RabbitMQ, or retry policy.

pub mod continuity;
pub mod creation;
pub mod facts;
pub mod history;
pub mod holder;
pub mod invalidation;
pub mod open_transactions;
pub mod publication;
pub mod record;
pub mod temporary;
pub mod usage;
