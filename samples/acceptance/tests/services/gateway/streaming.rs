//! Events for browsers.

use super::{events_until, listen};
use crate::shared_shop;

#[tokio::test]
async fn a_browser_sees_an_orders_way_as_it_happens() {
    let shop = shared_shop().await;
    let gateway = shop.gateway().await;
    let mut browser = listen(&gateway).await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "10").await;
    let way = events_until(&mut browser, order, "OrderApproved").await;
    assert_eq!(way, ["OrderCreated", "CustomerCreditReserved", "OrderApproved"]);
}
