//! A customer with its orders, composed by two queries side by side. A part that fails is left out and named.

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, Method, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use chassis::http::{ApiError, ErrorBody, Id, Page, PageQuery, next_page};
use hyper::body::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    context::Context,
    forwarding::passed_on,
    timing,
    upstream::{Asked, Question},
};

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(customer_with_orders))
}

/// The parts, as the services wrote them: no number is read and written again.
#[derive(Serialize, ToSchema)]
struct CustomerWithOrders {
    /// As customer-service answers GET /customers/{id}; null when it has not answered.
    #[schema(value_type = Option<Object>)]
    customer: Option<Box<RawValue>>,
    /// As order-service answers GET /orders?customerId=; null when it has not answered.
    #[schema(value_type = Option<Vec<Object>>)]
    orders: Option<Vec<Box<RawValue>>>,
    /// Services that have not answered.
    unavailable: Vec<&'static str>,
}

#[derive(Deserialize)]
struct Orders {
    orders: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderId {
    order_id: i64,
}

/// Part of the answer, or why there is none: briefly, and for people.
type Part<T> = Result<T, (&'static str, String)>;

/// A customer with its orders, from both services
///
/// A service that does not answer in time is left out and named in `unavailable`. The answer is 503 when neither does.
#[utoipa::path(get, path = "/api/customers/{id}/orders", params(("id" = i64, Path), PageQuery), responses(
    (status = 200, body = CustomerWithOrders, headers(("Link" = String), ("Server-Timing" = String))),
    (status = 400, body = ErrorBody, description = "The request is not valid; `field` says where"),
    (status = 404, body = ErrorBody, description = "There is no such customer"),
    (status = 503, body = ErrorBody, description = "Neither service has answered"),
    (status = "default", body = ErrorBody, description = "Any other failure")
))]
async fn customer_with_orders(State(api): State<Api>, context: Context, Id(id): Id, page: Page) -> Response {
    let orders = format!("/orders?customerId={id}&limit={}&after={}", page.limit, page.after);
    let (customer, orders) = tokio::join!(
        api.upstreams.customers.ask(question(format!("/customers/{id}"), &context)),
        api.upstreams.orders.ask(question(orders, &context)),
    );
    if matches!(&customer.answer, Ok(answer) if answer.status() == StatusCode::NOT_FOUND) {
        return passed_on(customer);
    }
    let (customer_part, orders_part) = (part::<Box<RawValue>>(&customer), part::<Orders>(&orders));
    let missing = [customer.timing(why(&customer_part)), orders.timing(why(&orders_part))];
    let mut response = match (customer_part, orders_part) {
        (Err((_, one)), Err((_, other))) => nothing(&[&customer, &orders], &format!("{one}; {other}")),
        (customer_part, orders_part) => {
            let asked = [(customer.service, customer_part.is_err()), (orders.service, orders_part.is_err())];
            let unavailable = asked.into_iter().filter(|(_, failed)| *failed).map(|(service, _)| service);
            let orders = orders_part.ok().map(|Orders { orders }| orders);
            let next = orders.as_deref().and_then(|orders| {
                let last = orders.last().and_then(|order| serde_json::from_str(order.get()).ok());
                let path = format!("/api/customers/{id}/orders");
                next_page(&path, page, orders.len(), last.map(|OrderId { order_id }| order_id))
            });
            let unavailable = unavailable.collect();
            (next, Json(CustomerWithOrders { customer: customer_part.ok(), orders, unavailable }))
                .into_response()
        }
    };
    timing::write(&missing, response.headers_mut());
    response
}

fn question(path: String, context: &Context) -> Question {
    Question { method: Method::GET, path, body: Bytes::new(), content_type: None, context: context.clone() }
}

/// Returns a part from its service's answer.
fn part<T: DeserializeOwned>(asked: &Asked) -> Part<T> {
    let service = asked.service;
    let answer = asked.answer.as_ref().map_err(|outage| (outage.name(), outage.text(service)))?;
    if answer.status() != StatusCode::OK {
        return Err(("refused", format!("{service} answered {}", answer.status())));
    }
    serde_json::from_slice(answer.body()).map_err(|error| {
        tracing::error!(service, %error, "the answer is not what the gateway expects");
        ("not understood", format!("the answer of {service} is not what the gateway expects"))
    })
}

fn why<T>(part: &Part<T>) -> Option<&'static str> {
    part.as_ref().err().map(|(why, _)| *why)
}

/// Answers when nothing is left.
fn nothing(asked: &[&Asked], texts: &str) -> Response {
    let mut response = ApiError::unavailable(texts).into_response();
    let outages = asked.iter().filter_map(|asked| asked.answer.as_ref().err());
    // One part is better than none, so the earlier time counts.
    let seconds = outages.filter_map(super::upstream::Outage::retry_after_s).min().unwrap_or(1);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}
