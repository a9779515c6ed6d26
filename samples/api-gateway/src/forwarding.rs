//! Requests that one service answers. Status, body and errors are passed on as they are.

use axum::{
    extract::State,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, Uri,
        header::{CONTENT_TYPE, LINK, LOCATION, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use chassis::http::{ApiError, ErrorBody, Id, PageQuery, RawBody};
use contract::requests::{CreateCustomer, PlaceOrder};
use hyper::body::Bytes;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    context::Context,
    timing,
    upstream::{Asked, ORDER_SEARCH, Question, Upstream},
};

/// Path under which a browser finds the services' own paths.
const PREFIX: &str = "/api";
/// Headers of an answer that mean the same here.
const PASSED_ON: [HeaderName; 2] = [CONTENT_TYPE, RETRY_AFTER];

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(customers, create_customer))
        .routes(routes!(orders, place_order))
        .routes(routes!(search))
        .routes(routes!(order))
        .routes(routes!(saga))
        .routes(routes!(cancel))
        .routes(routes!(history))
}

/// List customers
#[utoipa::path(get, path = "/api/customers", params(PageQuery), responses(
    (status = 200, description = "As customer-service answers GET /customers"),
    (status = "default", body = ErrorBody, description = "Any failure")
))]
async fn customers(State(api): State<Api>, context: Context, uri: Uri) -> Response {
    query(&api.upstreams.customers, context, "/customers", &uri).await
}

/// Create a customer
#[utoipa::path(post, path = "/api/customers", request_body = CreateCustomer, responses(
    (status = 201, description = "As customer-service answers POST /customers"),
    (status = "default", body = ErrorBody, description = "Any failure")
))]
async fn create_customer(
    State(api): State<Api>,
    context: Context,
    headers: HeaderMap,
    body: RawBody,
) -> Response {
    command(&api.upstreams.customers, context, "/customers".to_owned(), &headers, body).await
}

/// List orders
#[utoipa::path(get, path = "/api/orders", params(("customerId" = Option<i64>, Query), PageQuery), responses(
    (status = 200, description = "As order-service answers GET /orders"),
    (status = "default", body = ErrorBody, description = "Any failure")
))]
async fn orders(State(api): State<Api>, context: Context, uri: Uri) -> Response {
    query(&api.upstreams.orders, context, "/orders", &uri).await
}

/// Place an order
#[utoipa::path(post, path = "/api/orders", request_body = PlaceOrder, responses(
    (status = 201, description = "As order-service answers POST /orders"),
    (status = "default", body = ErrorBody, description = "Any failure")
))]
async fn place_order(
    State(api): State<Api>,
    context: Context,
    headers: HeaderMap,
    body: RawBody,
) -> Response {
    command(&api.upstreams.orders, context, "/orders".to_owned(), &headers, body).await
}

/// Look an order up
#[utoipa::path(get, path = "/api/orders/{id}", params(("id" = i64, Path)), responses(
    (status = 200, description = "As order-service answers GET /orders/{id}"),
    (status = "default", body = ErrorBody, description = "Any failure")
))]
async fn order(State(api): State<Api>, context: Context, Id(id): Id, uri: Uri) -> Response {
    query(&api.upstreams.orders, context, &format!("/orders/{id}"), &uri).await
}

/// Look up the saga that coordinates an order
#[utoipa::path(get, path = "/api/orders/{id}/saga", params(("id" = i64, Path)), responses(
    (status = 200, description = "As order-service answers GET /orders/{id}/saga"),
    (status = "default", body = ErrorBody, description = "Any failure")
))]
async fn saga(State(api): State<Api>, context: Context, Id(id): Id, uri: Uri) -> Response {
    query(&api.upstreams.orders, context, &format!("/orders/{id}/saga"), &uri).await
}

/// Cancel an approved order
#[utoipa::path(post, path = "/api/orders/{id}/cancel", params(("id" = i64, Path)), responses(
    (status = 200, description = "As order-service answers POST /orders/{id}/cancel"),
    (status = "default", body = ErrorBody, description = "Any failure")
))]
async fn cancel(
    State(api): State<Api>,
    context: Context,
    Id(id): Id,
    headers: HeaderMap,
    body: RawBody,
) -> Response {
    command(&api.upstreams.orders, context, format!("/orders/{id}/cancel"), &headers, body).await
}

/// A customer with its orders, from the view
///
/// One query of one service: the view has joined the events of both before.
#[utoipa::path(get, path = "/api/customers/{id}/orderhistory", params(
    ("id" = i64, Path), ("state" = Option<String>, Query, pattern = "^(PENDING|APPROVED|REJECTED|CANCELLED)$"), PageQuery
), responses(
    (status = 200, description = "As order-history answers GET /customers/{id}/orderhistory"),
    (status = "default", body = ErrorBody, description = "Any failure")
))]
async fn history(State(api): State<Api>, context: Context, Id(id): Id, uri: Uri) -> Response {
    query(&api.upstreams.history, context, &format!("/customers/{id}/orderhistory"), &uri).await
}

/// Search orders by text
#[utoipa::path(get, path = "/api/orders/search", params(
    ("q" = Option<String>, Query, max_length = 500),
    ("state" = Option<String>, Query, pattern = "^(PENDING|APPROVED|REJECTED|CANCELLED)$"),
    ("min" = Option<f64>, Query, minimum = -1_000_000_000_000_i64, maximum = 1_000_000_000_000_i64, multiple_of = 0.0001),
    ("max" = Option<f64>, Query, minimum = -1_000_000_000_000_i64, maximum = 1_000_000_000_000_i64, multiple_of = 0.0001),
    PageQuery
), responses(
    (status = 200, description = "As order-search answers GET /orders/search"),
    (status = 404, body = ErrorBody, description = "This gateway knows no order-search"),
    (status = "default", body = ErrorBody, description = "Any failure")
))]
async fn search(State(api): State<Api>, context: Context, uri: Uri) -> Response {
    let Some(upstream) = &api.upstreams.search else {
        let text = format!("this gateway knows no {ORDER_SEARCH}; set order_search_url to its address");
        return ApiError::not_found(text).into_response();
    };
    query(upstream, context, "/orders/search", &uri).await
}

/// Passes a GET on, with its query as it is.
async fn query(upstream: &Upstream, context: Context, path: &str, uri: &Uri) -> Response {
    let path = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let question = Question { method: Method::GET, path, body: Bytes::new(), content_type: None, context };
    passed_on(upstream.ask(question).await)
}

/// Passes a POST on.
async fn command(
    upstream: &Upstream,
    context: Context,
    path: String,
    headers: &HeaderMap,
    RawBody(body): RawBody,
) -> Response {
    let content_type = headers.get(CONTENT_TYPE).cloned();
    let question = Question { method: Method::POST, path, body, content_type, context };
    passed_on(upstream.ask(question).await)
}

/// Returns a service's answer as the gateway's own.
pub(crate) fn passed_on(asked: Asked) -> Response {
    let (mut response, missing) = match &asked.answer {
        Ok(answer) => (copy(answer), None),
        Err(outage) => (outage.response(asked.service), Some(outage.name())),
    };
    timing::write(&[asked.timing(missing)], response.headers_mut());
    response
}

fn copy(answer: &axum::http::Response<Bytes>) -> Response {
    let mut response = (answer.status(), answer.body().clone()).into_response();
    response.headers_mut().remove(CONTENT_TYPE);
    for name in PASSED_ON {
        if let Some(value) = answer.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    // Addresses of the service are found under the prefix here.
    for (name, at) in [(LOCATION, "/"), (LINK, "</")] {
        if let Some(value) = answer.headers().get(&name).and_then(|value| here(value, at)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Returns a header's address with the prefix; `None` when it does not begin as the services write it.
fn here(value: &HeaderValue, at: &str) -> Option<HeaderValue> {
    let rest = value.to_str().ok()?.strip_prefix(at)?;
    let bracket = at.trim_end_matches('/');
    HeaderValue::try_from(format!("{bracket}{PREFIX}/{rest}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_service_are_found_under_the_prefix() {
        let mapped = |text, at| here(&HeaderValue::from_static(text), at);
        assert_eq!(mapped("/orders/7", "/"), Some(HeaderValue::from_static("/api/orders/7")));
        assert_eq!(
            mapped("</orders?limit=1&after=7>; rel=\"next\"", "</"),
            Some(HeaderValue::from_static("</api/orders?limit=1&after=7>; rel=\"next\""))
        );
        assert_eq!(mapped("http://elsewhere/", "/"), None);
    }
}
