//! API of the view.

use axum::{Json, extract::State as Shared, response::IntoResponse};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::view::{OrderHistory, View};
use chassis::{
    database::Database,
    http::{ApiError, ErrorBody, Id, Page, PageQuery, Query, next_page},
};
use projection::{Generations, State};

/// Sources of answers.
#[derive(Clone)]
struct Sources {
    database: Database,
    generations: Generations,
    view: View,
}

pub(super) fn routes(database: Database, view: View) -> OpenApiRouter {
    let generations = Generations::new(database.clone());
    OpenApiRouter::new().routes(routes!(history)).with_state(Sources { database, generations, view })
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only orders in this state.
    #[param(value_type = State, inline, required = false)]
    state: Option<String>,
}

/// A customer with its orders
///
/// Ordered by id. A customer is known once its CustomerCreated has arrived.
#[utoipa::path(get, path = "/customers/{id}/orderhistory", params(("id" = i64, Path), Filter, PageQuery), responses(
    (status = 200, body = OrderHistory, headers(("Link" = String))),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = 404, body = ErrorBody, description = "No CustomerCreated of this customer has come yet"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn history(
    Shared(Sources { database, generations, view }): Shared<Sources>,
    Id(customer_id): Id,
    Query(Filter { state }): Query<Filter>,
    page: Page,
) -> Result<impl IntoResponse, ApiError> {
    let state = state.map(|name| known(&name)).transpose()?;
    let Some(history) = view.history(&database, &generations, customer_id, state, page).await? else {
        return Err(ApiError::not_found(format!("there is no customer {customer_id} here, or not yet")));
    };
    let path = format!("/customers/{customer_id}/orderhistory");
    let path = state.map_or(path.clone(), |state| format!("{path}?state={}", state.name()));
    let last = history.orders.last().map(|order| order.order_id);
    Ok((next_page(&path, page, history.orders.len(), last), Json(history)))
}

fn known(name: &str) -> Result<State, ApiError> {
    State::named(name).ok_or_else(|| {
        let names = State::ALL.map(State::name).join(", ");
        ApiError::invalid("state", format!("'{name}' is no state; there are {names}"))
    })
}
