//! The page for a browser, out of this program: it loads nothing from anywhere else.

use axum::{
    http::{
        HeaderName,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    },
    routing::get,
};
use utoipa_axum::router::OpenApiRouter;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// Path, content type and text of each file.
const FILES: [(&str, &str, &str); 14] = [
    ("/", HTML, include_str!("../page/index.html")),
    ("/style.css", CSS, include_str!("../page/style.css")),
    ("/icon.svg", PICTURE, include_str!("../page/icon.svg")),
    ("/api.js", SCRIPT, include_str!("../page/api.js")),
    ("/app.js", SCRIPT, include_str!("../page/app.js")),
    ("/card.js", SCRIPT, include_str!("../page/card.js")),
    ("/circuits.js", SCRIPT, include_str!("../page/circuits.js")),
    ("/comparison.js", SCRIPT, include_str!("../page/comparison.js")),
    ("/customers.js", SCRIPT, include_str!("../page/customers.js")),
    ("/dom.js", SCRIPT, include_str!("../page/dom.js")),
    ("/exact.js", SCRIPT, include_str!("../page/exact.js")),
    ("/form.js", SCRIPT, include_str!("../page/form.js")),
    ("/live.js", SCRIPT, include_str!("../page/live.js")),
    ("/order.js", SCRIPT, include_str!("../page/order.js")),
];

/// Scripts, styles, requests and pictures from here only; nothing inline; in nobody's frame.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

pub(crate) fn routes() -> OpenApiRouter {
    FILES.into_iter().fold(OpenApiRouter::new(), |router, (path, content_type, text)| {
        router.route(path, get(async move || asset(content_type, text)))
    })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{collections::BTreeSet, fs};

    #[test]
    fn every_file_of_the_page_is_served_under_its_name() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/page");
        let files =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files: BTreeSet<String> = files.collect();
        let served = FILES.map(|(path, ..)| path.trim_start_matches('/'));
        let served = served.map(|name| if name.is_empty() { "index.html" } else { name }.to_owned());
        assert_eq!(files, BTreeSet::from(served));
        for (path, _, text) in FILES {
            let file = if path == "/" { "/index.html" } else { path };
            assert_eq!(text, fs::read_to_string(format!("{folder}{file}")).unwrap(), "{path}");
        }
    }
}
