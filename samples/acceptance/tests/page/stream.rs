//! The stream of events is lost, and comes again.

use crate::{browser::Expected, site::Site};

in_both_styles!(what_was_missed_while_the_gateway_was_away_is_shown_when_it_returns);

async fn what_was_missed_while_the_gateway_was_away_is_shown_when_it_returns(style: &str) {
    let mut site = Site::open(style, "lost").await;
    let browser = site.visit().await;
    browser.run("window.isSameDocument = true").await;
    let customer = browser.make_customer("Ada", "100").await;
    let cancelled = browser.place_order("1").await;
    browser.shows(&cancelled, "APPROVED").await;
    site.shop.customers.suspend();
    let pending = browser.place_order("2").await;
    browser
        .shows_that(&pending, "PENDING, with its event", |shown| {
            (shown.state.as_str(), shown.events.len()) == ("PENDING", 1)
        })
        .await;

    site.gateway.kill9().await;
    browser
        .eventually("the loss in words", async |browser| {
            browser.text("#live").await.starts_with("Connection lost: ").then_some(())
        })
        .await;
    browser
        .eventually("the silence in words", async |browser| {
            (browser.text("#circuits-problem").await == "The gateway does not answer.").then_some(())
        })
        .await;
    assert_eq!(browser.orders().await.len(), 2, "what was shown stays");

    // Meanwhile, and unseen: one order is settled, one cancelled, one placed and settled.
    site.shop.customers.resume();
    let path = format!("/orders/{cancelled}/cancel");
    assert_eq!(site.shop.orders.post(&path, &serde_json::Value::Null).await.0, 200);
    let placed = site.approved_order(customer.parse().unwrap(), "3").await;
    site.is_approved(pending.parse().unwrap()).await;

    site.gateway.start_again();
    browser.is_live().await;
    browser.shows(&cancelled, "CANCELLED").await;
    browser.shows(&pending, "APPROVED").await;
    browser
        .shows_that(&placed.to_string(), "APPROVED of 3", |shown| {
            (shown.state.as_str(), shown.total.as_str()) == ("APPROVED", "3.00")
        })
        .await;
    browser
        .eventually("no problem is left", async |browser| {
            browser
                .text("#circuits-problem, #customers-problem, #orders-problem")
                .await
                .is_empty()
                .then_some(())
        })
        .await;
    // The stream is open again, not only the rest of the page.
    let live = browser.place_order("4").await;
    browser
        .shows_that(&live, "APPROVED with its events", |shown| {
            shown.state == "APPROVED" && shown.events.iter().any(|event| event.name == "OrderApproved")
        })
        .await;
    assert_eq!(browser.run("return window.isSameDocument").await, true, "the page was never loaded again");

    let mut expected =
        vec![Expected { path: "/api/events", failure: "net::ERR_INCOMPLETE_CHUNKED_ENCODING" }];
    for path in [
        "/api/events",
        "/api/circuits",
        "/api/customers?limit=1000",
        "/api/orders?customerId=*&limit=1000",
        "/api/customers/*/orders",
        "/api/customers/*/orderhistory",
        "/api/orders/*/saga",
    ] {
        let failures = [
            "net::ERR_CONNECTION_REFUSED",
            "net::ERR_CONNECTION_RESET",
            "net::ERR_EMPTY_RESPONSE",
            "net::ERR_SOCKET_NOT_CONNECTED",
        ];
        expected.extend(failures.map(|failure| Expected { path, failure }));
    }
    browser.close_expecting(&expected).await;
}

#[tokio::test]
#[ignore = "needs Chromium: make test-page"]
async fn a_gateway_that_hangs_is_noticed_and_what_was_missed_is_shown_when_it_goes_on() {
    let site = Site::open("orchestration", "hung").await;
    let browser = site.visit().await;
    let customer = browser.make_customer("Ada", "100").await;
    let first = browser.place_order("1").await;
    browser.shows(&first, "APPROVED").await;

    site.gateway.suspend();
    browser
        .eventually("the loss in words", async |browser| {
            let text = browser.text("#live").await;
            (text == "Connection lost: the gateway does not answer").then_some(())
        })
        .await;
    assert_eq!(browser.text("#circuits-problem").await, "The gateway did not answer within 4 s.");
    let missed = site.approved_order(customer.parse().unwrap(), "2").await.to_string();

    site.gateway.resume();
    browser.is_live().await;
    browser.shows(&missed, "APPROVED").await;
    let live = browser.place_order("3").await;
    browser
        .shows_that(&live, "APPROVED with its events", |shown| {
            shown.events.iter().any(|event| event.name == "OrderApproved")
        })
        .await;
    browser.close().await;
}
