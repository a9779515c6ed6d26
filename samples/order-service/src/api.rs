//! API of orders.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::LOCATION},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    orchestration,
    order::{OrderState, Step},
    store::{self, Order, Taken},
};
use chassis::{
    database::Database,
    http::{ApiError, Body, ErrorBody, Id, Page, PageQuery, Query, next_page, required, whole_text},
    saga::{self, SagaView},
    settings::SagaStyle,
    trace::TraceContext,
};
use contract::{
    events::{OrderDetails, RejectionReason},
    requests::PlaceOrder,
};

/// State of the endpoints.
#[derive(Clone)]
struct Api {
    database: Database,
    /// Style of the sagas that begin.
    style: SagaStyle,
}

pub(super) fn routes(database: Database, style: SagaStyle) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(place, list))
        .routes(routes!(find))
        .routes(routes!(cancel))
        .routes(routes!(saga_of_order))
        .routes(routes!(find_saga))
        .with_state(Api { database, style })
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OrderPlaced {
    order_id: i64,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OrderView {
    order_id: i64,
    #[schema(value_type = OrderState)]
    order_state: String,
    #[schema(value_type = Option<RejectionReason>)]
    rejection_reason: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Orders {
    orders: Vec<OrderView>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only orders of this customer.
    #[serde(rename = "customerId")]
    #[param(value_type = i64, required = false)]
    customer_id: Option<String>,
}

impl Filter {
    fn customer_id(&self) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.customer_id.as_deref() else { return Ok(None) };
        let invalid = || ApiError::invalid("customerId", "customerId is not a 64-bit integer");
        whole_text(text).map(Some).ok_or_else(invalid)
    }
}

fn valid(order: PlaceOrder) -> Result<OrderDetails, ApiError> {
    let customer_id = required("customerId", order.customer_id)?;
    let order_total = required("orderTotal", order.order_total)?;
    if !order_total.is_positive() {
        return Err(ApiError::invalid("orderTotal.amount", "an order's total must be more than zero"));
    }
    Ok(OrderDetails { customer_id, order_total })
}

/// Place an order
///
/// The order is PENDING until the customer service has decided.
#[utoipa::path(post, path = "/orders", request_body = PlaceOrder, responses(
    (status = 201, body = OrderPlaced, headers(("Location" = String))),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn place(
    State(api): State<Api>,
    trace: TraceContext,
    Body(order): Body<PlaceOrder>,
) -> Result<impl IntoResponse, ApiError> {
    let order = valid(order)?;
    let mut connection = api.database.connection().await?;
    let mut transaction = connection.transaction().await?;
    let order_id = match api.style {
        SagaStyle::Choreography => store::place(&transaction, &trace, order, None).await?,
        SagaStyle::Orchestration => orchestration::create(&mut transaction, &trace, order).await?,
    };
    transaction.commit().await?;
    let location = [(LOCATION, format!("/orders/{order_id}"))];
    Ok((StatusCode::CREATED, location, Json(OrderPlaced { order_id })))
}

/// List orders
#[utoipa::path(get, path = "/orders", params(Filter, PageQuery), responses(
    (status = 200, body = Orders, headers(("Link" = String))),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn list(
    State(api): State<Api>,
    Query(filter): Query<Filter>,
    page: Page,
) -> Result<impl IntoResponse, ApiError> {
    let customer_id = filter.customer_id()?;
    let orders = store::list(&*api.database.connection().await?, customer_id, page).await?;
    let path = customer_id.map_or("/orders".to_owned(), |id| format!("/orders?customerId={id}"));
    let next = next_page(&path, page, orders.len(), orders.last().map(|order| order.id));
    Ok((next, Json(Orders { orders: orders.into_iter().map(OrderView::from).collect() })))
}

/// Look an order up
#[utoipa::path(get, path = "/orders/{id}", params(("id" = i64, Path)), responses(
    (status = 200, body = OrderView),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = 404, body = ErrorBody, description = "There is no such order"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn find(State(api): State<Api>, Id(id): Id) -> Result<Json<OrderView>, ApiError> {
    let order = store::find(&*api.database.connection().await?, id).await?;
    order.map(|order| Json(order.into())).ok_or_else(|| no_order(id))
}

/// Cancel an approved order
///
/// The customer's credit is released.
#[utoipa::path(post, path = "/orders/{id}/cancel", params(("id" = i64, Path)), responses(
    (status = 200, body = OrderView),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = 404, body = ErrorBody, description = "There is no such order"),
    (status = 409, body = ErrorBody, description = "The order is not APPROVED"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn cancel(
    State(api): State<Api>,
    trace: TraceContext,
    Id(id): Id,
) -> Result<Json<OrderView>, ApiError> {
    let mut connection = api.database.connection().await?;
    let mut transaction = connection.transaction().await?;
    let taken = match api.style {
        SagaStyle::Choreography => store::take(&transaction, &trace, id, Step::Cancel, None).await?,
        SagaStyle::Orchestration => orchestration::cancel(&mut transaction, &trace, id).await?,
    };
    match taken {
        Taken::Yes(order) => {
            transaction.commit().await?;
            Ok(Json(order.into()))
        }
        Taken::No(order) => Err(ApiError::conflict(format!(
            "order {id} is {}; only an APPROVED order can be cancelled",
            order.state
        ))),
        Taken::NoOrder => Err(no_order(id)),
    }
}

/// Look up the saga that coordinates an order
///
/// Of an order that was cancelled the one that releases its credit.
#[utoipa::path(get, path = "/orders/{id}/saga", params(("id" = i64, Path)), responses(
    (status = 200, body = SagaView),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = 404, body = ErrorBody, description = "There is no such order, or no saga coordinates it"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn saga_of_order(State(api): State<Api>, Id(id): Id) -> Result<Json<SagaView>, ApiError> {
    let connection = api.database.connection().await?;
    if let Some(saga_id) = store::saga_of(&*connection, id).await?
        && let Some(saga) = saga::find(&*connection, saga_id).await?
    {
        return Ok(Json(saga));
    }
    Err(match store::find(&*connection, id).await? {
        Some(_) => {
            ApiError::not_found(format!("no saga coordinates order {id}: it was placed by choreography"))
        }
        None => no_order(id),
    })
}

/// Look a saga up
#[utoipa::path(get, path = "/sagas/{id}", params(("id" = i64, Path)), responses(
    (status = 200, body = SagaView),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = 404, body = ErrorBody, description = "There is no such saga"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn find_saga(State(api): State<Api>, Id(id): Id) -> Result<Json<SagaView>, ApiError> {
    let saga = saga::find(&*api.database.connection().await?, id).await?;
    saga.map(Json).ok_or_else(|| ApiError::not_found(format!("there is no saga {id}")))
}

fn no_order(id: i64) -> ApiError {
    ApiError::not_found(format!("there is no order {id}"))
}

impl From<Order> for OrderView {
    fn from(order: Order) -> Self {
        Self { order_id: order.id, order_state: order.state, rejection_reason: order.rejection_reason }
    }
}
