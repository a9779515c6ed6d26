//! The views in other stores: order-history in documents, order-search in a text index.

mod deliveries;
mod outages;
mod search;
mod stories;

use hyper::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{eventually, shop};
use testkit::{
    FerretDb, OpenSearch, Service, Shop, shared_ferretdb, shared_opensearch, shared_postgres, unique,
};

/// Limit for applying a thousand orders.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(400);

/// A shop whose order-history keeps documents, and an order-search beside it.
struct Views {
    shop: Shop,
    search: Service,
    /// Prefix of the search's indices.
    prefix: String,
}

impl Views {
    /// Opens a shop on the nodes that the tests share.
    async fn open(test: &str) -> Self {
        Self::open_on(test, shared_ferretdb().await, shared_opensearch().await).await
    }

    async fn open_on(test: &str, ferretdb: &FerretDb, opensearch: &OpenSearch) -> Self {
        let mut shop = shop(test).await;
        assert!(shop.history.sigterm(crate::PATIENCE).await.success());
        let name = unique(test);
        shop.history.set("VIEW_URL", &ferretdb.url(&name));
        shop.history.start_again();
        let prefix = format!("{}-search", name.replace('_', "-"));
        let database = shared_postgres().await.create_database(&format!("{name}_search")).await;
        let mut search = Service::prepare("order-search", &database, &shop.amqp_url)
            .with("VIEW_URL", &opensearch.url(&prefix));
        search.start_again();
        for (service, name) in [(&mut shop.history, "order-history"), (&mut search, "order-search")] {
            service.wait_ready(crate::PATIENCE).await;
            for stream in ["orders", "customers"] {
                let series = format!("inbox_connected{{queue=\"{name}.{stream}\"}}");
                eventually(&series, async || (service.metric(&series).await == Some(1.0)).then_some(()))
                    .await;
            }
        }
        Self { shop, search, prefix }
    }

    /// Both projectors.
    fn projectors(&mut self) -> [&mut Service; 2] {
        [&mut self.shop.history, &mut self.search]
    }

    /// Creates a customer with this name.
    async fn customer(&self, name: &str, limit: &str) -> i64 {
        let body = format!(r#"{{"name": {}, "creditLimit": {{"amount": {limit}}}}}"#, json!(name));
        let (status, answer) = self.shop.customers.ask(Method::POST, "/customers", body).await;
        assert_eq!(status, 201, "{answer}");
        answer["customerId"].as_i64().unwrap()
    }

    /// Returns what a search finds. A new index cannot be read for a moment, which lasts on a busy machine.
    async fn found(&self, query: &str) -> Vec<Value> {
        let path = format!("/orders/search?{query}");
        eventually(&format!("{path} is answered"), async || {
            let (status, answer) = self.search.get(&path).await;
            assert!(status == 200 || status == 503, "{path}: {status} {answer}");
            (status == 200).then(|| answer["orders"].as_array().unwrap().clone())
        })
        .await
    }

    /// Waits until a search finds exactly these orders.
    async fn finds(&self, query: &str, expected: &[i64]) {
        eventually(&format!("{query} finds {expected:?}"), async || {
            (ids(&self.found(query).await) == expected).then_some(())
        })
        .await;
    }

    /// Returns every order that the order service has, with state and reason.
    async fn orders(&self) -> BTreeMap<i64, Value> {
        let (_, answer) = self.shop.orders.get("/orders").await;
        let orders = answer["orders"].as_array().unwrap().iter();
        orders
            .map(|order| {
                let id = order["orderId"].as_i64().unwrap();
                (id, json!([order["orderState"], order["rejectionReason"]]))
            })
            .collect()
    }

    /// Returns the same from the histories of these customers.
    async fn orders_of_history(&self, customers: &[i64]) -> BTreeMap<i64, Value> {
        let mut all = BTreeMap::new();
        for customer in customers {
            let (_, history) = self.shop.history.get(&format!("/customers/{customer}/orderhistory")).await;
            all.extend(states(history["orders"].as_array().into_iter().flatten()));
        }
        all
    }

    /// Waits until both projectors have applied every event. FerretDB and OpenSearch take their time on a busy machine.
    async fn catch_up(&self) {
        let deadline = Instant::now() + CATCH_UP_LIMIT;
        for service in [&self.shop.history, &self.search] {
            loop {
                let (_, lag) = service.get("/lag").await;
                let streams = lag["streams"].as_array().into_iter().flatten();
                if streams.filter(|stream| stream["secondsBehind"] == 0).count() == 2 {
                    break;
                }
                assert!(Instant::now() < deadline, "{lag}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    /// Waits until both views equal the orders, all of which have ended, and each has its customer's name.
    async fn equal_the_orders(&self, customers: &[i64]) {
        let ended = async || {
            let orders = self.orders().await;
            let is_pending = orders.values().any(|order| order[0] == "PENDING");
            (!is_pending).then_some(orders)
        };
        let orders = eventually("every order has ended", ended).await;
        self.catch_up().await;
        eventually("the history equals the orders", async || {
            (self.orders_of_history(customers).await == orders).then_some(())
        })
        .await;
        eventually("the search equals the orders", async || {
            let found = self.found("").await;
            let is_named = found.iter().all(|order| order["customerName"].is_string());
            (is_named && states(found.iter()) == orders).then_some(())
        })
        .await;
    }
}

fn ids(orders: &[Value]) -> Vec<i64> {
    orders.iter().map(|order| order["orderId"].as_i64().unwrap()).collect()
}

/// Returns state and reason of orders of a view.
fn states<'a>(orders: impl Iterator<Item = &'a Value>) -> BTreeMap<i64, Value> {
    orders
        .map(|order| (order["orderId"].as_i64().unwrap(), json!([order["state"], order["rejectionReason"]])))
        .collect()
}

/// Rebuilds a view, and returns what the command printed.
async fn rebuilt(service: &Service) -> String {
    let output = service.command(&["rebuild"]).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
