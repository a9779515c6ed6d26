//! The shop with its gateway, and its page in a browser.

use std::time::{Duration, Instant};

use testkit::{Service, Shop, shared_postgres, shared_rabbitmq};
use tokio::sync::OnceCell;

use crate::browser::{Browser, PATIENCE};

/// Running shop with a gateway.
pub(crate) struct Site {
    /// Before the services that it asks.
    pub(crate) gateway: Service,
    pub(crate) shop: Shop,
}

impl Site {
    /// Opens a shop in this style of saga, for a test that breaks something.
    pub(crate) async fn open(style: &str, test: &str) -> Self {
        let shop = Shop::open_with(style, test, shared_postgres().await, shared_rabbitmq().await).await;
        let mut gateway = shop
            .prepare_gateway()
            .with("QUERY_TIMEOUT_MS", "1000")
            .with("COMMAND_TIMEOUT_MS", "2000")
            .with("CIRCUIT_FAILURES", "3")
            .with("CIRCUIT_OPEN_MS", "2000");
        gateway.start_again();
        gateway.wait_ready(PATIENCE).await;
        Self { gateway, shop }
    }

    /// Returns the shop in this style that is shared by tests that break nothing.
    pub(crate) async fn shared(style: &str) -> &'static Self {
        static CHOREOGRAPHED: OnceCell<Site> = OnceCell::const_new();
        static ORCHESTRATED: OnceCell<Site> = OnceCell::const_new();
        let shared = if style == "choreography" { &CHOREOGRAPHED } else { &ORCHESTRATED };
        shared.get_or_init(|| Self::open(style, "page")).await
    }

    /// Places an order at its service, without the page, and waits until it is approved.
    pub(crate) async fn approved_order(&self, customer: i64, total: &str) -> i64 {
        let order = self.shop.order(customer, total).await;
        self.is_approved(order).await;
        order
    }

    /// Waits until the order's service has approved it.
    pub(crate) async fn is_approved(&self, order: i64) {
        let deadline = Instant::now() + PATIENCE;
        while self.shop.state_of(order).await.0 != "APPROVED" {
            assert!(Instant::now() < deadline, "order {order} is not approved");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Address of the page.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.gateway.port())
    }

    /// Opens the page in a browser of its own, and waits until it is live.
    pub(crate) async fn visit(&self) -> Browser {
        let browser = Browser::open(&self.url()).await;
        browser.is_live().await;
        browser
    }
}
