//! API of the search.

use axum::{Json, extract::State as Shared, response::IntoResponse};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{index, index::Index, search::Question};
use chassis::{
    database::Database,
    http::{ApiError, ErrorBody, Page, PageQuery, Query, next_page},
    inbox::HandlingError,
};
use contract::{
    events::RejectionReason,
    money::{Money, OrderTotalSchema},
};
use projection::{Generations, State};

/// Most characters of `q`. Each may be a word, and OpenSearch allows 1,024 of them.
const WORDS_MAX: usize = 500;

/// Sources of answers.
#[derive(Clone)]
struct Sources {
    generations: Generations,
    index: Index,
}

pub(super) fn routes(database: Database, index: Index) -> OpenApiRouter {
    let sources = Sources { generations: Generations::new(database), index };
    OpenApiRouter::new().routes(routes!(search)).with_state(sources)
}

#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Words, of which the customer's name, the order's id and its state together have each.
    #[param(required = false, max_length = 500)]
    q: Option<String>,
    /// Only orders in this state.
    #[param(value_type = State, inline, required = false)]
    state: Option<String>,
    /// Only orders with this total or more.
    #[param(value_type = f64, required = false, minimum = -1_000_000_000_000_i64, maximum = 1_000_000_000_000_i64, multiple_of = 0.0001)]
    min: Option<String>,
    /// Only orders with this total or less.
    #[param(value_type = f64, required = false, minimum = -1_000_000_000_000_i64, maximum = 1_000_000_000_000_i64, multiple_of = 0.0001)]
    max: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = FoundOrders)]
struct Found {
    orders: Vec<FoundOrder>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FoundOrder {
    order_id: i64,
    customer_id: i64,
    /// Null until the customer's CustomerCreated has come.
    customer_name: Option<String>,
    state: State,
    #[schema(value_type = OrderTotalSchema)]
    order_total: Money,
    rejection_reason: Option<RejectionReason>,
}

/// Orders by words, state and total
///
/// Ordered by id. An order is found about a second after its event has arrived.
#[utoipa::path(get, path = "/orders/search", params(Filter, PageQuery), responses(
    (status = 200, body = Found, headers(("Link" = String))),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn search(
    Shared(Sources { generations, index }): Shared<Sources>,
    Query(filter): Query<Filter>,
    page: Page,
) -> Result<impl IntoResponse, ApiError> {
    let question = question(&filter)?;
    let find = |generation| index.search(generation, &question, page);
    let orders = match generations.query(find).await? {
        Some(orders) => orders,
        None => {
            // Before the first event, or after the index was lost.
            generations.query(async |generation| index.create_missing(generation).await.map(Some)).await?;
            Vec::new()
        }
    };
    let next = next_page(&path(&filter), page, orders.len(), orders.last().map(|order| order.order_id));
    let orders = orders.into_iter().map(shown).collect::<Result<_, _>>()?;
    Ok((next, Json(Found { orders })))
}

/// Reads what the caller asks for.
fn question(filter: &Filter) -> Result<Question, ApiError> {
    let words = filter.q.clone().filter(|words| !words.trim().is_empty());
    if words.as_ref().is_some_and(|words| words.chars().count() > WORDS_MAX) {
        return Err(ApiError::invalid("q", format!("q is longer than {WORDS_MAX} characters")));
    }
    let state = filter.state.as_deref().map(|name| {
        let names = State::ALL.map(State::name).join(", ");
        let unknown = || ApiError::invalid("state", format!("'{name}' is no state; there are {names}"));
        State::named(name).ok_or_else(unknown)
    });
    let amount = |field, text: &Option<String>| {
        let amount = text.as_deref().map(Money::parse).transpose();
        amount.map_err(|error| ApiError::invalid(field, format!("{field} {error}")))
    };
    let (min, max) = (amount("min", &filter.min)?, amount("max", &filter.max)?);
    Ok(Question { words, state: state.transpose()?, min, max })
}

fn shown(order: index::Order) -> Result<FoundOrder, ApiError> {
    let total = Money::of_ten_thousandths(order.total).map_err(|error| {
        HandlingError::Permanent(format!("order {} in the index has a total that {error}", order.order_id))
    })?;
    Ok(FoundOrder {
        order_id: order.order_id,
        customer_id: order.customer_id,
        customer_name: order.customer_name,
        state: order.state,
        order_total: total,
        rejection_reason: order.rejection_reason,
    })
}

/// Returns the path of the list, with the caller's parameters.
fn path(filter: &Filter) -> String {
    let Filter { q, state, min, max } = filter;
    let given = [("q", q), ("state", state), ("min", min), ("max", max)];
    let given = given.into_iter().filter_map(|(name, value)| {
        Some(format!("{name}={}", utf8_percent_encode(value.as_deref()?, NON_ALPHANUMERIC)))
    });
    let given: Vec<String> = given.collect();
    if given.is_empty() { "/orders/search".to_owned() } else { format!("/orders/search?{}", given.join("&")) }
}
