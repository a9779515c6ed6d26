//! outboxd relays committed rows of PostgreSQL outbox tables to RabbitMQ, in commit order per aggregate, with publisher confirms.
//!
//! The spine, one source at a time, owned by one task:
//!
//! ```text
//! CopyData bytes
//!   -> ReplicationEvent    pg_replication          frames of the copy stream
//!   -> PgOutput            pg_replication          decoded messages of the plugin pgoutput
//!   -> OutboxRow           message                 a row of the outbox table
//!   -> Message             message::Mapper         the message for the broker
//!   -> Ledger              ledger                  waiting, outstanding, settled: in commit order
//!   -> Outcome             amqp_publisher          confirmed, returned, nacked
//!   -> ConfirmedLsn        ledger                  proof that a position may be acknowledged
//!   -> status update       pg_replication          PostgreSQL may remove WAL before the position
//! ```
//!
//! `relay` is the loop that moves rows along the spine, and the only room that knows both servers. The modules below are
//! in reading order.

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

pub mod setup;

pub mod cli;

pub mod commands;
