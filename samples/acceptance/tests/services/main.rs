//! The companion services from outside: real binaries, databases, broker and relay.

#![allow(clippy::unwrap_used, clippy::expect_used)]

/// Makes of each function, which takes the style of saga, a test in both styles.
macro_rules! in_both_styles {
    ($($test:ident),+ $(,)?) => {
        mod choreography {
            $(#[tokio::test] async fn $test() { super::$test("choreography").await })+
        }
        mod orchestration {
            $(#[tokio::test] async fn $test() { super::$test("orchestration").await })+
        }
    };
}

mod asyncapi;
mod bad_input;
mod broker;
mod brokers;
mod compose;
mod connections;
mod deliveries;
mod faults;
mod gateway;
mod history;
mod hostile;
mod hostile_sagas;
mod inbox;
mod instances;
mod operation;
mod orchestration;
mod orchestrator;
mod own_servers;
mod projector;
mod reader;
mod repeated_id;
mod replay;
mod retention;
mod saga;
mod secrets;
mod signals;
mod upgrade;
mod views;

use serde_json::Value;
use std::time::{Duration, Instant};
use testkit::{Shop, shared_postgres, shared_rabbitmq};
use tokio::sync::OnceCell;

/// Limit of a wait, long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Returns the shop shared by tests that break nothing.
async fn shared_shop() -> &'static Shop {
    static SHARED: OnceCell<Shop> = OnceCell::const_new();
    SHARED.get_or_init(|| shop("shared")).await
}

/// Returns a shop for a test that breaks something.
async fn shop(test: &str) -> Shop {
    Shop::open(test, shared_postgres().await, shared_rabbitmq().await).await
}

/// Returns the shop in this style of saga for all tests that break nothing.
async fn shared_shop_of(style: &str) -> &'static Shop {
    static ORCHESTRATED: OnceCell<Shop> = OnceCell::const_new();
    match style {
        "choreography" => shared_shop().await,
        _ => ORCHESTRATED.get_or_init(|| shop_of(style, "orchestrated")).await,
    }
}

/// Opens a shop in this style of saga for a test that breaks something.
async fn shop_of(style: &str, test: &str) -> Shop {
    Shop::open_with(style, test, shared_postgres().await, shared_rabbitmq().await).await
}

/// Waits until `look` returns a value. Fails after [`PATIENCE`].
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the order is settled, and returns its state and the reason of a rejection.
async fn settled(shop: &Shop, order: i64) -> (String, Value) {
    let settled = async || Some(shop.state_of(order).await).filter(|(state, _)| state != "PENDING");
    eventually("the order is settled", settled).await
}

/// Waits until the history shows exactly these orders of the customer in these states, and returns it.
async fn history_shows(shop: &Shop, customer: i64, expected: &[(i64, &str)]) -> Value {
    let path = format!("/customers/{customer}/orderhistory");
    let look = async || {
        let (_, history) = shop.history.get(&path).await;
        let orders = history["orders"].as_array()?;
        let shown: Vec<(i64, &str)> = orders
            .iter()
            .filter_map(|order| Some((order["orderId"].as_i64()?, order["state"].as_str()?)))
            .collect();
        (shown == expected).then(|| history.clone())
    };
    eventually(&format!("{path} shows {expected:?}"), look).await
}
