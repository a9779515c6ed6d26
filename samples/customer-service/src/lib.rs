//! Customer service: keeps each customer's credit limit, and reserves credit for orders.
//!
//! `store` keeps customers and decides about orders; `api` serves people, `choreography` handles the order service's
//! events, `commands` its commands.

mod api;
mod choreography;
mod commands;
mod store;

use chassis::settings::{Program, Settings};
use contract::{
    commands::{CUSTOMER_COMMANDS, RELEASE_CREDIT, RESERVE_CREDIT},
    events::{
        CREDIT_RESERVATION_FAILED, CREDIT_RESERVED, CUSTOMER, CUSTOMER_CREATED, CUSTOMER_VALIDATION_FAILED,
        ORDER, ORDER_CANCELLED, ORDER_CREATED,
    },
};
use process::failure::Failure;

/// Program of the service.
pub const PROGRAM: Program =
    Program { name: "customer-service", listen: "127.0.0.1:8082", orchestrates: false, view: None };
/// Queue of the order service's events.
pub const EVENTS_QUEUE: &str = "customer-service.orders";
/// Queues that the service consumes.
pub const QUEUES: [&str; 2] = [EVENTS_QUEUE, CUSTOMER_COMMANDS];

/// Runs the service until SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
///
/// As [`chassis::run`].
pub async fn run(settings: Settings) -> Result<(), Failure> {
    chassis::run(settings, &store::SCHEMA, |service| {
        service.describe(contract::messages());
        let decisions = [CREDIT_RESERVED, CREDIT_RESERVATION_FAILED, CUSTOMER_VALIDATION_FAILED];
        service.publish(CUSTOMER, &[&[CUSTOMER_CREATED], &decisions[..]].concat());
        service.consume(EVENTS_QUEUE, ORDER, &[ORDER_CREATED, ORDER_CANCELLED], choreography::Choreography);
        service.handle_commands(CUSTOMER_COMMANDS, &[RESERVE_CREDIT, RELEASE_CREDIT], commands::Commands);
        api::routes(service.database().clone())
    })
    .await
}
