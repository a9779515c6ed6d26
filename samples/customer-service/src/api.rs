//! API of customers.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::LOCATION},
    response::IntoResponse,
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::store;
use chassis::{
    database::Database,
    http::{ApiError, Body, ErrorBody, Id, Page, PageQuery, next_page, required},
    trace::TraceContext,
};
use contract::{
    events::{CustomerCreated, name_problem},
    money::{CreditLimitSchema, Money},
    requests::CreateCustomer,
};

pub(super) fn routes(database: Database) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(find)).with_state(database)
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CustomerId {
    customer_id: i64,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CustomerView {
    customer_id: i64,
    name: String,
    #[schema(value_type = CreditLimitSchema)]
    credit_limit: Money,
}

#[derive(Serialize, ToSchema)]
struct Customers {
    customers: Vec<CustomerView>,
}

fn valid(customer: CreateCustomer) -> Result<(String, Money), ApiError> {
    let name = required("name", customer.name)?;
    if let Some(problem) = name_problem(&name) {
        return Err(ApiError::invalid("name", problem));
    }
    let credit_limit = required("creditLimit", customer.credit_limit)?;
    if credit_limit.is_negative() {
        return Err(ApiError::invalid("creditLimit.amount", "a credit limit cannot be negative"));
    }
    Ok((name, credit_limit))
}

/// Create a customer
#[utoipa::path(post, path = "/customers", request_body = CreateCustomer, responses(
    (status = 201, body = CustomerId, headers(("Location" = String))),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn create(
    State(database): State<Database>,
    trace: TraceContext,
    Body(customer): Body<CreateCustomer>,
) -> Result<impl IntoResponse, ApiError> {
    let (name, credit_limit) = valid(customer)?;
    let mut connection = database.connection().await?;
    let transaction = connection.transaction().await?;
    let customer_id = store::create(&transaction, &trace, name, credit_limit).await?;
    transaction.commit().await?;
    let location = [(LOCATION, format!("/customers/{customer_id}"))];
    Ok((StatusCode::CREATED, location, Json(CustomerId { customer_id })))
}

/// List customers
#[utoipa::path(get, path = "/customers", params(PageQuery), responses(
    (status = 200, body = Customers, headers(("Link" = String))),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn list(State(database): State<Database>, page: Page) -> Result<impl IntoResponse, ApiError> {
    let customers = store::list(&*database.connection().await?, page).await?;
    let last = customers.last().map(|customer| customer.customer_id);
    let next = next_page("/customers", page, customers.len(), last);
    Ok((next, Json(Customers { customers: customers.into_iter().map(CustomerView::from).collect() })))
}

/// Look a customer up
#[utoipa::path(get, path = "/customers/{id}", params(("id" = i64, Path)), responses(
    (status = 200, body = CustomerView),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = 404, body = ErrorBody, description = "There is no such customer"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn find(State(database): State<Database>, Id(id): Id) -> Result<Json<CustomerView>, ApiError> {
    let customer = store::find(&*database.connection().await?, id).await?;
    let view = customer.map(|customer| Json(customer.into()));
    view.ok_or_else(|| ApiError::not_found(format!("there is no customer {id}")))
}

impl From<CustomerCreated> for CustomerView {
    fn from(CustomerCreated { customer_id, name, credit_limit }: CustomerCreated) -> Self {
        Self { customer_id, name, credit_limit }
    }
}
