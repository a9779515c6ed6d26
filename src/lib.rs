//! outboxd relays committed rows of PostgreSQL outbox tables to RabbitMQ, in commit order per aggregate, with publisher confirms.
//!
//! The spine, one source at a time, owned by one task:
//!
//! ```text
//! CopyData bytes
//!   -> ReplicationEvent    pg_replication          frames of the copy stream
//!   -> PgOutput            pg_replication          what the plugin says
//!   -> OutboxRow           outbox                  a row of the outbox table
//!   -> Message             message::Mapper          what the broker will see
//!   -> Ledger              ledger                  waiting, published, settled: in commit order
//!   -> Outcome             amqp_publisher         confirmed, returned, nacked
//!   -> ConfirmedLsn        ledger                  the proof that a position may be acknowledged
//!   -> status update       pg_replication          PostgreSQL may forget what is before it
//! ```
//!
//! `relay` is the loop that moves things along the spine, and the only room that knows both worlds. The modules below
//! are in reading order; each imports only from those above it, but for `admin`, `settings` and `relay`, which stand
//! side by side.

pub mod position;

pub mod message;

pub mod ledger;

pub mod postgres;

pub mod slot;

pub mod backfill;

pub mod parking;

pub mod cleanup;

pub mod preflight;

pub mod rabbitmq;

pub mod admin;

pub mod relay;

pub mod settings;

pub mod cli;

pub mod commands;
