//! Any interleaving, duplication and replay of a valid history gives the same view, in each store.

use hyper::Method;
use order_history::view::Documents;
use order_search::index::Index;
use serde_json::{Value, json};
use std::cell::RefCell;

use crate::projector::{Case, is_same_for_any_delivery};
use chassis::http::Page;
use testkit::{shared_ferretdb, shared_opensearch, unique};

#[test]
#[ignore = "needs Go and Java: make test-views"]
fn any_delivery_gives_the_same_documents() {
    // A document of a customer that was never created is not shown.
    let expected =
        |case: &Case| case.expected().into_iter().filter(|line| !line.contains(" of 2:")).collect();
    let current = RefCell::new(None);
    let new = async || {
        let url = shared_ferretdb().await.url(&unique("deliveries"));
        let store = Documents::open(&url.into(), "test").await.unwrap();
        current.replace(Some(store.clone()));
        store
    };
    is_same_for_any_delivery(40, new, expected, async |_| {
        let store = current.borrow().clone().unwrap();
        let page = Page { limit: 10_000, after: i64::MIN };
        let mut shown = Vec::new();
        for customer in 0..3 {
            let Some(history) = store.history(0, customer, None, page).await.unwrap() else { continue };
            shown.push(format!("customer {customer}: {} {:.4}", history.name, decimal(history.credit_limit)));
            shown.extend(history.orders.iter().map(|order| {
                let reason = order.rejection_reason.as_deref().unwrap_or_default();
                let total = decimal(order.order_total);
                format!("order {} of {customer}: {total:.4} {} {reason}", order.order_id, order.state)
            }));
        }
        shown.sort_unstable();
        shown
    });
}

/// These amounts are exact as binary fractions.
fn decimal(money: impl std::fmt::Display) -> f64 {
    money.to_string().parse().unwrap()
}

#[test]
#[ignore = "needs Go and Java: make test-views"]
fn any_delivery_gives_the_same_index() {
    // An order has its customer's name once both have come, whichever came first.
    let expected = |case: &Case| -> Vec<String> {
        let orders = case.orders.iter().enumerate().map(|(number, (customer, course))| {
            let (state, reason) = course.end();
            let name = if *customer < 2 { "Ada" } else { "" };
            format!("order {number} of {customer} {name}: 15000 {state} {reason}")
        });
        orders.collect()
    };
    let prefix = RefCell::new(String::new());
    let new = async || {
        prefix.replace(unique("deliveries").replace('_', "-"));
        Index::at(&shared_opensearch().await.url(&prefix.borrow())).unwrap()
    };
    is_same_for_any_delivery(25, new, expected, async |_| {
        let server = shared_opensearch().await;
        let path = format!("/{}-orders-0", prefix.borrow());
        server.ask(Method::POST, &format!("{path}/_refresh"), Value::Null).await;
        let all = json!({ "size": 1000, "sort": ["orderId"] });
        let found = server.ask(Method::POST, &format!("{path}/_search"), all).await;
        server.ask(Method::DELETE, &format!("{path}-index"), Value::Null).await;
        let orders = found["hits"]["hits"].as_array().unwrap().iter().map(|hit| {
            let order = &hit["_source"];
            let text = |field: &str| order[field].as_str().unwrap_or_default();
            format!(
                "order {} of {} {}: {} {} {}",
                order["orderId"],
                order["customerId"],
                text("customerName"),
                order["total"],
                text("state"),
                text("rejectionReason")
            )
        });
        orders.collect()
    });
}
