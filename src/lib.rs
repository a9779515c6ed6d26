//! outboxd
pub mod admin;
pub mod cli;
pub mod commands;
pub mod ledger;
pub mod outbox;
pub mod position;
pub mod postgres;
pub mod rabbitmq;
pub mod relay;
pub mod settings;
pub mod telemetry;
