//! A source's objects in its database: created by `outboxd setup`, removed by `outboxd teardown`.
//!
//! Knows slot, record, publication and the table of parked rows together. Does not know RabbitMQ, or the command line.

pub mod creation;
pub mod teardown;
