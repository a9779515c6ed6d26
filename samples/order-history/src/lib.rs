//! Order history: every customer with its orders, built from the events of both services. It queries neither of them,
//! and answers while both are down.
//!
//! `view` changes the view by an event; `projector` applies arriving events; `rebuild` applies retained ones again;
//! `api` answers.

mod api;
pub mod projector;
mod rebuild;
mod view;

pub use rebuild::{Rebuilt, rebuild};

use chassis::{
    database::DatabaseError,
    settings::{Program, Settings},
};
use contract::events::{
    CUSTOMER, CUSTOMER_CREATED, ORDER, ORDER_APPROVED, ORDER_CANCELLED, ORDER_CREATED, ORDER_REJECTED,
};
use process::failure::Failure;
use projector::Projector;
use tokio_postgres::Client;

/// Migrates the tables of the service's database.
///
/// # Errors
///
/// [`DatabaseError`], after which nothing has changed.
pub async fn migrate(client: &mut Client) -> Result<(), DatabaseError> {
    view::SCHEMA.migrate(client).await
}

/// Program of the service.
pub const PROGRAM: Program = Program { name: "order-history", listen: "127.0.0.1:8083", orchestrates: false };
/// Queue of the order service's events.
pub const ORDERS_QUEUE: &str = "order-history.orders";
/// Queue of the customer service's events.
pub const CUSTOMERS_QUEUE: &str = "order-history.customers";

/// Runs the service until SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
///
/// As [`chassis::run`].
pub async fn run(settings: Settings) -> Result<(), Failure> {
    chassis::run(settings, &view::SCHEMA, |service| {
        service.describe(contract::messages());
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
