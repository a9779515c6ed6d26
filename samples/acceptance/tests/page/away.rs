//! A service that is away: parts that are missing, circuits, errors in words, and what comes right again by itself.

use std::time::Duration;

use crate::{
    browser::{Browser, Expected, PATIENCE},
    orders::agreement_is,
    shown::ShownAnswer,
    site::Site,
};

in_both_styles!(
    a_stopped_customer_service_opens_its_circuit_and_costs_only_its_part,
    a_hanging_customer_service_costs_its_part_and_the_time_limit,
    a_page_that_is_opened_while_customers_are_away_shows_the_orders,
    a_stopped_order_service_leaves_the_customer_and_the_view,
);

const TERM: Duration = Duration::from_secs(20);
const UNAVAILABLE: &str = "the server responded with a status of 503 (Service Unavailable)";
const MISSING: &str = "customer-service is unavailable: name and limit are missing.";

/// What fails while the customer service is away: its list, again and again.
const LIST: Expected = Expected { path: "/api/customers?limit=1000", failure: UNAVAILABLE };

fn fact<'a>(answer: &'a ShownAnswer, term: &str) -> &'a str {
    answer.facts.iter().find(|(name, _)| name == term).map_or("", |(_, text)| text)
}

/// Waits until the composed answer has these notices, and returns both answers.
async fn notices_are(browser: &Browser, notices: &[&str]) -> [ShownAnswer; 2] {
    browser
        .eventually(&format!("the notices {notices:?}"), async |browser| {
            // The reason in brackets changes when the circuit opens.
            let without_reason = |notice: &String| match (notice.split_once(" ("), notice.split_once("): ")) {
                (Some((service, _)), Some((_, missing))) => format!("{service}: {missing}"),
                _ => notice.clone(),
            };
            Some(browser.answers().await).filter(|[composed, _]| {
                composed.notices.iter().map(without_reason).eq(notices.iter().copied())
            })
        })
        .await
}

async fn a_stopped_customer_service_opens_its_circuit_and_costs_only_its_part(style: &str) {
    let mut site = Site::open(style, "stopped").await;
    let browser = site.visit().await;
    browser.make_customer("Ada", "100").await;
    let first = browser.place_order("1").await;
    browser.shows(&first, "APPROVED").await;
    agreement_is(&browser, "Both answers are the same.").await;
    browser.circuit_is("customer-service", "closed").await;

    site.shop.customers.sigterm(TERM).await;
    browser.press("Ask again").await;
    let [composed, view] = notices_are(&browser, &[MISSING]).await;
    assert_eq!((fact(&composed, "Name"), fact(&composed, "Orders")), ("missing", "1\u{a0}APPROVED"));
    assert_eq!((fact(&view, "Name"), fact(&view, "Orders")), ("Ada", "1\u{a0}APPROVED"), "the view is whole");
    assert!(view.notices.is_empty());
    agreement_is(&browser, "Only one answer is whole.").await;
    browser.circuit_is("customer-service", "open").await;
    assert_eq!(browser.circuit("order-service").await.0, "closed");

    // Orders can be placed, and wait.
    let second = browser.place_order("2").await;
    let waiting =
        browser.shows_that(&second, "waiting", |shown| shown.settled.starts_with("waiting for ")).await;
    assert_eq!((waiting.state.as_str(), waiting.events.len()), ("PENDING", 1));
    if style == "orchestration" {
        let is_running = |shown: &crate::shown::ShownOrder| shown.saga == "Saga CreateOrder: RUNNING";
        let shown = browser.shows_that(&second, "a running saga", is_running).await;
        assert_eq!(shown.steps[0][1..3], ["ReserveCredit", "waiting"], "{shown:?}");
    }
    browser.fill("Name", "Nobody").await;
    browser.press("Make customer").await;
    browser
        .eventually("the failure in words", async |browser| {
            let text = browser.text("#make-customer-outcome.notice").await;
            text.contains("customer-service").then_some(())
        })
        .await;

    site.shop.customers.start_again();
    site.shop.customers.wait_ready(PATIENCE).await;
    browser.circuit_is("customer-service", "closed").await;
    browser.shows(&second, "APPROVED").await;
    notices_are(&browser, &[]).await;
    agreement_is(&browser, "Both answers are the same.").await;
    browser.close_expecting(&[LIST, Expected { path: "/api/customers", failure: UNAVAILABLE }]).await;
}

async fn a_hanging_customer_service_costs_its_part_and_the_time_limit(style: &str) {
    let site = Site::open(style, "hanging").await;
    let browser = site.visit().await;
    browser.make_customer("Ada", "100").await;
    let first = browser.place_order("1").await;
    browser.shows(&first, "APPROVED").await;
    agreement_is(&browser, "Both answers are the same.").await;

    site.shop.customers.suspend();
    browser.press("Ask again").await;
    let [composed, view] = notices_are(&browser, &[MISSING]).await;
    assert_eq!((fact(&composed, "Orders"), fact(&view, "Name")), ("1\u{a0}APPROVED", "Ada"));
    browser.circuit_is("customer-service", "open").await;
    // An open circuit refuses at once.
    let refused = "customer-service is unavailable (circuit open): name and limit are missing.";
    browser
        .eventually("an answer without the wait", async |browser| {
            let [composed, _] = browser.answers().await;
            (composed.notices == [refused] && composed.took.ends_with(" ms in this browser")).then_some(())
        })
        .await;

    site.shop.customers.resume();
    browser.circuit_is("customer-service", "closed").await;
    notices_are(&browser, &[]).await;
    browser.close_expecting(&[LIST, Expected { path: LIST.path, failure: GATEWAY_TIMEOUT }]).await;
}

const GATEWAY_TIMEOUT: &str = "the server responded with a status of 504 (Gateway Timeout)";

async fn a_page_that_is_opened_while_customers_are_away_shows_the_orders(style: &str) {
    let mut site = Site::open(style, "opened").await;
    let customer = site.shop.customer("100").await;
    let order = site.shop.order(customer, "5").await.to_string();
    let browser = Browser::open(&format!("{}#customer={customer}", site.url())).await;
    browser.shows(&order, "APPROVED").await;

    site.shop.customers.sigterm(TERM).await;
    browser.reload().await;
    browser
        .eventually("the list's failure in words", async |browser| {
            let text = browser.text("#customers-problem").await;
            text.starts_with("Customers cannot be listed: customer-service ").then_some(())
        })
        .await;
    browser
        .shows_that(&order, "APPROVED of 5", |shown| (&*shown.state, &*shown.total) == ("APPROVED", "5.00"))
        .await;
    notices_are(&browser, &[MISSING]).await;

    site.shop.customers.start_again();
    browser
        .eventually("the list", async |browser| {
            let chosen =
                browser.run("return document.getElementById('customer').selectedOptions[0].text").await;
            (chosen == "Ada (limit 100.00)" && browser.text("#customers-problem").await.is_empty())
                .then_some(())
        })
        .await;
    browser.close_expecting(&[LIST]).await;
}

async fn a_stopped_order_service_leaves_the_customer_and_the_view(style: &str) {
    let mut site = Site::open(style, "orderless").await;
    let browser = site.visit().await;
    browser.make_customer("Ada", "100").await;
    let order = browser.place_order("1").await;
    browser.shows(&order, "APPROVED").await;
    agreement_is(&browser, "Both answers are the same.").await;

    site.shop.orders.kill9().await;
    browser.press("Ask again").await;
    let [composed, view] =
        notices_are(&browser, &["order-service is unavailable: orders are missing."]).await;
    assert_eq!((fact(&composed, "Name"), fact(&composed, "Orders")), ("Ada", "missing"));
    assert_eq!(fact(&view, "Orders"), "1\u{a0}APPROVED");
    // What was shown stays, and an attempt to cancel says what is wrong.
    browser.press("Cancel").await;
    let refused = browser
        .shows_that(&order, "the failure in words", |shown| shown.problem.contains("order-service"))
        .await;
    assert_eq!(refused.state, "APPROVED");
    browser.circuit_is("order-service", "open").await;

    site.shop.orders.start_again();
    browser.circuit_is("order-service", "closed").await;
    notices_are(&browser, &[]).await;
    browser.press("Cancel").await;
    let cancelled = browser.shows(&order, "CANCELLED").await;
    assert_eq!(cancelled.problem, "");
    let failed = |path| Expected { path, failure: UNAVAILABLE };
    let lost = |path| Expected { path, failure: "the server responded with a status of 502 (Bad Gateway)" };
    browser
        .close_expecting(&[
            failed("/api/orders/*/cancel"),
            lost("/api/orders/*/cancel"),
            failed("/api/orders?customerId=*&limit=1000"),
            lost("/api/orders?customerId=*&limit=1000"),
            failed("/api/orders/*/saga"),
            lost("/api/orders/*/saga"),
        ])
        .await;
}
