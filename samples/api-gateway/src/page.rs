//! The page for a browser, out of this program: it loads nothing from anywhere else.

use axum::{
    http::{
        HeaderName,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    },
    routing::get,
};
use utoipa_axum::router::OpenApiRouter;

const INDEX: &str = include_str!("../page/index.html");
const SCRIPT: &str = include_str!("../page/app.js");
const STYLE: &str = include_str!("../page/style.css");

/// Scripts, styles, requests and pictures from here only; nothing inline; in nobody's frame.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

pub(crate) fn routes() -> OpenApiRouter {
    OpenApiRouter::new()
        .route("/", get(async || asset("text/html; charset=utf-8", INDEX)))
        .route("/app.js", get(async || asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/style.css", get(async || asset("text/css; charset=utf-8", STYLE)))
}

fn asset(content_type: &'static str, text: &'static str) -> ([(HeaderName, &'static str); 4], &'static str) {
    let headers = [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Another version of the gateway may answer the next request.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}
