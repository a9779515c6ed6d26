//! The order history: every customer with its orders, kept from the events of both services. It asks neither of them, and
//! answers while both are down.
//!
//! `view` is what an event does to the view; `projector` applies events as they come; `rebuild` applies those that were
//! retained once more; `api` answers.

mod api;
pub mod projector;
mod rebuild;
mod view;

pub use rebuild::{Rebuilt, rebuild};

use chassis::{database::DatabaseError, settings::Settings};
use contract::events::{
    CUSTOMER, CUSTOMER_CREATED, ORDER, ORDER_APPROVED, ORDER_CANCELLED, ORDER_CREATED, ORDER_REJECTED,
};
use process::failure::Failure;
use projector::Projector;
use tokio_postgres::Client;

/// Brings the tables of its database up to date.
///
/// # Errors
///
/// Nothing has changed then.
pub async fn migrate(client: &mut Client) -> Result<(), DatabaseError> {
    view::SCHEMA.migrate(client).await
}

/// Its name.
pub const NAME: &str = "order-history";
/// Its queue of the order service's events.
pub const ORDERS_QUEUE: &str = "order-history.orders";
/// Its queue of the customer service's events.
pub const CUSTOMERS_QUEUE: &str = "order-history.customers";
/// Where it listens unless configured otherwise.
pub const LISTEN: &str = "127.0.0.1:8083";

/// Runs it until SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
///
/// As [`chassis::run`].
pub async fn run(settings: Settings) -> Result<(), Failure> {
    chassis::run(settings, &view::SCHEMA, |service| {
        let orders = [ORDER_CREATED, ORDER_APPROVED, ORDER_REJECTED, ORDER_CANCELLED];
        let orders = service.consume(ORDERS_QUEUE, ORDER, &orders, Projector { stream: ORDER });
        let customers = [CUSTOMER_CREATED];
        let customers =
            service.consume(CUSTOMERS_QUEUE, CUSTOMER, &customers, Projector { stream: CUSTOMER });
        let streams = vec![(ORDER, orders), (CUSTOMER, customers)];
        api::routes(service.database().clone(), streams)
    })
    .await
}
