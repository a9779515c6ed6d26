//! Order search: orders and their customers' names in a text index, built from the events of both services. It queries
//! neither of them, and answers while both are down.
//!
//! `opensearch` speaks the REST API; `index` keeps the view in it; `search` asks it; `api` answers. The crate `projection`
//! applies arriving events to the view, and retained ones again.

mod api;
pub mod index;
mod opensearch;
mod search;

use chassis::{
    schema::Schema,
    settings::{Program, Settings, ViewPlaces},
};
use index::Index;
use process::failure::Failure;
use projection::{DERIVED, Rebuilt, TABLES};

/// Tables of the projection. The view is in the index.
pub const SCHEMA: Schema = Schema { migrations: &[TABLES], derived: &DERIVED };

/// Program of the service.
pub const PROGRAM: Program = Program {
    name: "order-search",
    listen: "127.0.0.1:8084",
    orchestrates: false,
    view: Some(ViewPlaces {
        schemes: &["http"],
        example: "http://user:password@host:9200/order-search",
        is_optional: false,
    }),
};
/// Queue of the order service's events.
pub const ORDERS_QUEUE: &str = "order-search.orders";
/// Queue of the customer service's events.
pub const CUSTOMERS_QUEUE: &str = "order-search.customers";

/// Runs the service until SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
///
/// As [`chassis::run`], or when `view_url` is not valid.
pub async fn run(settings: Settings) -> Result<(), Failure> {
    let index = Index::of(&settings)?;
    chassis::run(settings, &SCHEMA, |service| {
        let streams = projection::consume(service, [ORDERS_QUEUE, CUSTOMERS_QUEUE], &index);
        let database = service.database().clone();
        api::routes(database.clone(), index).merge(projection::lag_routes(database, streams))
    })
    .await
}

/// Rebuilds the view from the retained events.
///
/// # Errors
///
/// As [`projection::rebuild`], or when `view_url` is not valid.
pub async fn rebuild(settings: Settings) -> Result<Rebuilt, Failure> {
    let index = Index::of(&settings)?;
    projection::rebuild(settings, &SCHEMA, index).await
}
