//! Order history: every customer with its orders, built from the events of both services. It queries neither of them,
//! and answers while both are down.
//!
//! `view` keeps the view, in PostgreSQL or in documents; `api` answers. The crate `projection` applies arriving events to
//! it, and retained ones again.

mod api;
pub mod view;

use chassis::{
    database::DatabaseError,
    settings::{Program, Settings},
};
use process::failure::Failure;
use projection::Rebuilt;
use tokio_postgres::Client;
use view::View;

/// Migrates the tables of the service's database.
///
/// # Errors
///
/// [`DatabaseError`], after which nothing has changed.
pub async fn migrate(client: &mut Client) -> Result<(), DatabaseError> {
    view::SCHEMA.migrate(client).await
}

/// Program of the service.
pub const PROGRAM: Program = Program {
    name: "order-history",
    listen: "127.0.0.1:8083",
    orchestrates: false,
    view: Some(view::PLACES),
};
/// Queue of the order service's events.
pub const ORDERS_QUEUE: &str = "order-history.orders";
/// Queue of the customer service's events.
pub const CUSTOMERS_QUEUE: &str = "order-history.customers";

/// Runs the service until SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
///
/// As [`chassis::run`], or when `view_url` is not valid.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let view = View::of(&settings).await?;
    chassis::run(settings, &view::SCHEMA, |service| {
        let streams = projection::consume(service, [ORDERS_QUEUE, CUSTOMERS_QUEUE], &view);
        let database = service.database().clone();
        api::routes(database.clone(), view).merge(projection::lag_routes(database, streams))
    })
    .await
}

/// Rebuilds the view from the retained events.
///
/// # Errors
///
/// As [`projection::rebuild`], or when `view_url` is not valid.
pub async fn rebuild(settings: Settings) -> Result<Rebuilt, Failure> {
    let view = View::of(&settings).await?;
    projection::rebuild(settings, &view::SCHEMA, view).await
}
