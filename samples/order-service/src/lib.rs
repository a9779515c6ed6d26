//! Order service: accepts orders, and follows each through the saga.
//!
//! `order` is the state machine; `store` keeps orders and writes their events; `api` serves customers, `saga` handles
//! the customer service's events.

mod api;
pub mod order;
mod saga;
mod store;

use chassis::settings::Settings;
use contract::events::{CREDIT_RESERVATION_FAILED, CREDIT_RESERVED, CUSTOMER, CUSTOMER_VALIDATION_FAILED};
use process::failure::Failure;

/// Name of the service.
pub const NAME: &str = "order-service";
/// Queue of the customer service's events.
pub const QUEUE: &str = "order-service.customers";
/// Default address.
pub const LISTEN: &str = "127.0.0.1:8081";

/// Runs the service until SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
///
/// As [`chassis::run`].
pub async fn run(settings: Settings) -> Result<(), Failure> {
    chassis::run(settings, &store::SCHEMA, |service| {
        let decisions = [CREDIT_RESERVED, CREDIT_RESERVATION_FAILED, CUSTOMER_VALIDATION_FAILED];
        service.consume(QUEUE, CUSTOMER, &decisions, saga::Saga);
        api::routes(service.database().clone())
    })
    .await
}
