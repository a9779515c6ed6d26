//! Base of a service: writes its events, consumes those of others once, and answers over HTTP.
//!
//! ```text
//! HTTP request -> http       -> the service's own code -> outbox   one transaction
//! queue        -> inbox      -> the service's own code -> outbox   one transaction, the message's id in it
//! queue        -> listener   -> the service's own code             nothing is kept: of a queue that ends with the process
//! queue        -> saga       -> the service's own code -> outbox   one transaction, the reply and the next command in it
//! ```
//!
//! [`run`] joins these for one service, [`run_without_database`] for one that keeps nothing. `asyncapi` describes its messages. Nothing here knows what a service does, or that outboxd relays its outbox.
//! `trace` carries one identifier through all of it.

mod alive;
pub mod asyncapi;
mod base;
pub mod cli;
pub mod consumer;
pub mod database;
mod health;
pub mod http;
pub mod inbox;
pub mod listener;
mod metrics;
pub mod outbox;
pub mod saga;
pub mod schema;
mod service;
pub mod settings;
pub mod trace;

pub use base::{Base, run_without_database};
pub use service::{Service, run};
