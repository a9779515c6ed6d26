//! outboxd
pub mod ledger;
pub mod outbox;
pub mod position;
pub mod postgres;
pub mod rabbitmq;
pub mod relay;
pub mod settings;
