//! Customer service: keeps each customer's credit limit, and reserves credit for orders.
//!
//! `store` keeps customers and decides about orders; `api` serves people, `saga` handles the order service's events.

mod api;
mod saga;
mod store;

use chassis::settings::Settings;
use contract::events::{ORDER, ORDER_CANCELLED, ORDER_CREATED};
use process::failure::Failure;

/// Name of the service.
pub const NAME: &str = "customer-service";
/// Queue of the order service's events.
pub const QUEUE: &str = "customer-service.orders";
/// Default address.
pub const LISTEN: &str = "127.0.0.1:8082";

/// Runs the service until SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
///
/// As [`chassis::run`].
pub async fn run(settings: Settings) -> Result<(), Failure> {
    chassis::run(settings, &store::SCHEMA, |service| {
        service.consume(QUEUE, ORDER, &[ORDER_CREATED, ORDER_CANCELLED], saga::Saga);
        api::routes(service.database().clone())
    })
    .await
}
