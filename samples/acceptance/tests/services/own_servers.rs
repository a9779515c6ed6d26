//! Each service's database on a server of its own: one relay follows both outboxes, and a server that is away stops only what needs
//! it.

use crate::{eventually, history_shows, settled};
use testkit::{Postgres, PostgresOptions, Service, Shop, shared_rabbitmq};

in_both_styles!(a_server_that_is_away_stops_only_its_own_service);

async fn server() -> Postgres {
    Postgres::start(PostgresOptions { own_system: true, ..Default::default() }).await
}

/// Returns the answer of a service's list.
async fn status(service: &Service, path: &str) -> u16 {
    service.get(path).await.0
}

async fn a_server_that_is_away_stops_only_its_own_service(style: &str) {
    let servers = tokio::join!(server(), server(), server());
    let (orders, customers, history) = (&servers.0, &servers.1, &servers.2);
    let shop =
        Shop::open_on(style, "own_servers", [orders, customers, history], shared_rabbitmq().await).await;
    let customer = shop.customer("30").await;
    let first = shop.order(customer, "10").await;
    history_shows(&shop, customer, &[(first, "APPROVED")]).await;

    // The customers' server is away, and the relay keeps publishing what the orders' server has.
    customers.stop_fast().await;
    assert_eq!(status(&shop.customers, "/customers").await, 503);
    let second = shop.order(customer, "10").await;
    history_shows(&shop, customer, &[(first, "APPROVED"), (second, "PENDING")]).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let third = shop.order(customer, "20").await;
    let waiting = [(first, "APPROVED"), (second, "PENDING"), (third, "PENDING")];
    history_shows(&shop, customer, &waiting).await;
    customers.start_again().await;
    assert_eq!(settled(&shop, second).await.0, "APPROVED");
    assert_eq!(settled(&shop, third).await.0, "REJECTED");

    // The orders' server is away: customers are served, and the view answers.
    orders.stop_immediate().await;
    assert_eq!(status(&shop.orders, "/orders").await, 503);
    let all = [(first, "APPROVED"), (second, "APPROVED"), (third, "REJECTED")];
    history_shows(&shop, customer, &all).await;
    let newcomer = shop.customer("10").await;
    history_shows(&shop, newcomer, &[]).await;
    orders.start_again().await;
    eventually("orders are taken again", async || {
        (status(&shop.orders, "/orders").await == 200).then_some(())
    })
    .await;

    // The view's server is away: the saga needs no view, and the view catches up.
    history.stop_fast().await;
    let order = shop.order(newcomer, "10").await;
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
    assert_eq!(status(&shop.history, &format!("/customers/{newcomer}/orderhistory")).await, 503);
    history.start_again().await;
    history_shows(&shop, newcomer, &[(order, "APPROVED")]).await;
}
