//! HTTP set-up: the service's paths with their OpenAPI description, its AsyncAPI document, health, metrics, and errors as JSON.

mod body;
mod error;
mod id;
mod observe;
mod page;
mod query;
mod request_id;
mod serve;
mod whole;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{Method, Uri, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use serde_json::Value;
use tokio::sync::watch;
use utoipa::openapi::InfoBuilder;
use utoipa_axum::router::OpenApiRouter;

pub use body::{Body, RawBody, required};
pub use error::{ApiError, ErrorBody};
pub use id::Id;
pub use page::{Page, PageQuery, next_page};
pub use query::Query;
pub use request_id::{REQUEST_ID, RequestId};
pub(super) use serve::serve;
pub use whole::{whole, whole_text};

use super::{health::Health, metrics::Metrics};

/// Largest body: more than any request needs.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Returns all paths of the service `name`. Its own ones answer only when `is_ready`. `messages`: its AsyncAPI document.
pub(super) fn router(
    name: &str,
    api: OpenApiRouter,
    messages: Value,
    metrics: Metrics,
    is_ready: watch::Receiver<bool>,
    health: Health,
) -> Router {
    let (api, mut description) = api.split_for_parts();
    description.info = InfoBuilder::new().title(name).version(env!("CARGO_PKG_VERSION")).build();
    let text = {
        let metrics = metrics.clone();
        async move || ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], metrics.text())
    };
    let when_ready = middleware::from_fn_with_state(is_ready, only_when_ready);
    Router::new()
        .merge(api)
        .route("/readyz", get(async move || readiness(&health)))
        .route_layer(when_ready)
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(text))
        .route("/openapi.json", get(async move || Json(description)))
        .route("/asyncapi.json", get(async move || Json(messages)))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            ApiError::method_not_allowed(&method, uri.path())
        })
        .fallback(async |uri: Uri| ApiError::not_found(format!("there is no {}", uri.path())))
        .layer(middleware::from_fn_with_state(metrics, observe::observe))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

fn readiness(health: &Health) -> Result<&'static str, ApiError> {
    health.reason().map_or(Ok("ready\n"), |reason| Err(ApiError::unavailable(reason)))
}

async fn only_when_ready(
    State(is_ready): State<watch::Receiver<bool>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if *is_ready.borrow() {
        return Ok(next.run(request).await);
    }
    Err(ApiError::unavailable("the service is starting and waits for its database; try again later"))
}
