//! Order service: accepts orders, and follows each through its saga.
//!
//! `order` is the state machine; `store` keeps orders and writes their events; `api` serves customers. `choreography` handles
//! the customer service's events, `orchestration` sends it commands. The setting `saga` decides which of the two begins a
//! saga; each continues what it began.

mod api;
mod choreography;
mod orchestration;
pub mod order;
mod store;

use chassis::settings::{Program, Settings};
use contract::{
    commands::ORDER_REPLIES,
    events::{
        CREDIT_RESERVATION_FAILED, CREDIT_RESERVED, CUSTOMER, CUSTOMER_VALIDATION_FAILED, ORDER,
        ORDER_APPROVED, ORDER_CANCELLED, ORDER_CREATED, ORDER_REJECTED,
    },
};
use orchestration::OrderSagas;
use process::failure::Failure;

/// Program of the service.
pub const PROGRAM: Program =
    Program { name: "order-service", listen: "127.0.0.1:8081", orchestrates: true, view: None };
/// Queue of the customer service's events.
pub const EVENTS_QUEUE: &str = "order-service.customers";
/// Queues that the service consumes.
pub const QUEUES: [&str; 2] = [EVENTS_QUEUE, ORDER_REPLIES];

/// Runs the service until SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
///
/// As [`chassis::run`].
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let style = settings.saga.style;
    chassis::run(settings, &store::SCHEMA, |service| {
        service.describe(contract::messages());
        service.publish(ORDER, &[ORDER_CREATED, ORDER_APPROVED, ORDER_REJECTED, ORDER_CANCELLED]);
        let decisions = [CREDIT_RESERVED, CREDIT_RESERVATION_FAILED, CUSTOMER_VALIDATION_FAILED];
        service.consume(EVENTS_QUEUE, CUSTOMER, &decisions, choreography::Choreography);
        service.orchestrate(OrderSagas);
        api::routes(service.database().clone(), style)
    })
    .await
}
