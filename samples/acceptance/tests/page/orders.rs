//! Orders on the page: placed, settled, cancelled, refused.

use crate::{
    browser::{Browser, Expected},
    shown::ShownOrder,
    site::Site,
};

in_both_styles!(
    an_order_is_approved_without_a_reload_and_then_cancelled,
    a_rejected_order_shows_its_reason,
    both_answers_are_the_same_and_tell_how_long_they_took,
    a_wrong_field_is_marked_and_explained,
    another_customer_brings_its_own_orders,
    an_order_from_before_the_page_was_opened_shows_its_saga_when_it_is_unfolded,
);

fn names(order: &ShownOrder) -> Vec<&str> {
    order.events.iter().map(|event| event.name.as_str()).collect()
}

/// The style's events of an order, of those that every order has.
fn with_credit<'a>(style: &str, events: [&'a str; 3]) -> Vec<&'a str> {
    // An orchestrator hears of the credit by a reply.
    events.into_iter().filter(|name| style == "choreography" || !name.starts_with("Customer")).collect()
}

async fn an_order_is_approved_without_a_reload_and_then_cancelled(style: &str) {
    let site = Site::shared(style).await;
    let browser = site.visit().await;
    browser.run("window.isSameDocument = true").await;
    browser.make_customer("Ada", "100").await;
    let order = browser.place_order("12.34").await;
    browser.shows(&order, "APPROVED").await;
    let approved = with_credit(style, ["OrderCreated", "CustomerCreditReserved", "OrderApproved"]);
    let shown = browser.shows_that(&order, "its events", |shown| names(shown) == approved).await;
    assert_eq!((shown.total.as_str(), shown.reason.as_str(), shown.problem.as_str()), ("12.34", "", ""));
    assert!(shown.settled.starts_with("settled in "), "{shown:?}");
    for event in &shown.events {
        assert_eq!((event.position.len(), event.time.len()), (25, 8), "{event:?}");
    }
    let positions = |name| shown.events.iter().find(|event| event.name == name).unwrap().position.clone();
    assert!(positions("OrderCreated") < positions("OrderApproved"), "{shown:?}");
    if style == "orchestration" {
        let shown =
            browser.shows_that(&order, "its saga", |shown| shown.saga == "Saga CreateOrder: COMPLETED").await;
        let step: Vec<&str> = shown.steps[0].iter().map(String::as_str).collect();
        assert_eq!(step[..3], ["2", "ReserveCredit", "CreditReserved, SUCCESS"], "{shown:?}");
        assert!(step[4].ends_with(" ms") || step[4].ends_with(" s"), "{shown:?}");
    } else {
        assert_eq!(shown.saga, "");
    }

    browser.press("Cancel").await;
    let shown = browser.shows(&order, "CANCELLED").await;
    assert!(!shown.can_be_cancelled);
    browser
        .shows_that(&order, "its last event", |shown| names(shown).last() == Some(&"OrderCancelled"))
        .await;
    if style == "orchestration" {
        let shown =
            browser.shows_that(&order, "its saga", |shown| shown.saga == "Saga CancelOrder: COMPLETED").await;
        assert_eq!(shown.steps[0][1..3], ["ReleaseCredit", "CreditReleased, SUCCESS"], "{shown:?}");
    }
    let (state, _) = site.shop.state_of(order.parse().unwrap()).await;
    assert_eq!(state, "CANCELLED");
    assert_eq!(browser.run("return window.isSameDocument").await, true, "the page was never loaded again");
    browser.close().await;
}

async fn a_rejected_order_shows_its_reason(style: &str) {
    let browser = Site::shared(style).await.visit().await;
    browser.make_customer("Grace", "50").await;
    let order = browser.place_order("50.0001").await;
    let shown = browser.shows(&order, "REJECTED").await;
    let reason = "The customer's credit does not cover the total. (INSUFFICIENT_CREDIT)";
    assert_eq!(
        (shown.reason.as_str(), shown.total.as_str(), shown.can_be_cancelled),
        (reason, "50.0001", false)
    );
    let rejected = with_credit(style, ["OrderCreated", "CustomerCreditReservationFailed", "OrderRejected"]);
    browser.shows_that(&order, "its events", |shown| names(shown) == rejected).await;
    if style == "orchestration" {
        let is_compensated = |shown: &ShownOrder| shown.saga == "Saga CreateOrder: COMPENSATED";
        let shown = browser.shows_that(&order, "its saga", is_compensated).await;
        assert_eq!(shown.steps[0][1..3], ["ReserveCredit", "CreditLimitExceeded, FAILURE"], "{shown:?}");
        assert_eq!(shown.steps[1][..2], ["1 undone", "reject (local)"], "{shown:?}");
    }

    browser.choose("Orders of", "Somebody the shop does not know").await;
    let order = browser.place_order("1").await;
    let shown = browser.shows(&order, "REJECTED").await;
    assert_eq!(shown.reason, "The customer service does not know the customer. (UNKNOWN_CUSTOMER)");
    browser.close().await;
}

/// Waits until the line below both answers says so.
pub(crate) async fn agreement_is(browser: &Browser, text: &str) {
    browser.eventually(text, async |browser| (browser.text("#agreement").await == text).then_some(())).await;
}

async fn both_answers_are_the_same_and_tell_how_long_they_took(style: &str) {
    let browser = Site::shared(style).await.visit().await;
    browser.make_customer("Edsger", "1234567.8").await;
    let first = browser.place_order("1000000").await;
    browser.shows(&first, "APPROVED").await;
    let second = browser.place_order("999999999999.9999").await;
    let shown = browser.shows(&second, "REJECTED").await;
    assert_eq!(shown.total, "999,999,999,999.9999", "no digit is lost");
    let facts = [
        ("Name", "Edsger"),
        ("Credit limit", "1,234,567.80"),
        ("Orders", "1\u{a0}APPROVED, 1\u{a0}REJECTED"),
    ];
    let facts = facts.map(|(term, text)| (term.to_owned(), text.to_owned()));
    let answers = browser
        .eventually("both answers with both orders", async |browser| {
            Some(browser.answers().await).filter(|answers| answers.iter().all(|answer| answer.facts == facts))
        })
        .await;
    agreement_is(&browser, "Both answers are the same.").await;
    let [composed, view] = answers;
    assert_eq!((composed.parts.len(), view.parts.as_slice()), (2, ["order-history".to_owned()].as_slice()));
    for service in ["customer-service", "order-service"] {
        assert!(composed.parts.iter().any(|part| part == service), "{composed:?}");
    }
    for answer in [&composed, &view] {
        assert!(answer.took.ends_with(" ms in this browser") && answer.notices.is_empty(), "{answer:?}");
    }
    browser.close().await;
}

async fn a_wrong_field_is_marked_and_explained(style: &str) {
    let browser = Site::shared(style).await.visit().await;
    browser.make_customer("Barbara", "10").await;
    for (total, explanation) in [
        ("a lot", "The total is not a number such as 12.34."),
        ("0", "An order's total must be more than zero."),
        ("0.00001", "Amount has more than 4 digits after the point."),
    ] {
        browser.fill("Total", total).await;
        browser.press("Place order").await;
        browser
            .eventually(explanation, async |browser| {
                (browser.text("#place-order-outcome").await == explanation).then_some(())
            })
            .await;
        let focused = browser.run("const e = document.activeElement; return [e.id, e.ariaInvalid]").await;
        assert_eq!(focused, serde_json::json!(["total", "true"]));
        // Whoever corrects the field presses at once, and is heard.
        assert_eq!(browser.run("return document.getElementById('place-order').ariaBusy").await, "false");
    }
    assert!(browser.orders().await.is_empty());
    browser.fill("Name", " ").await;
    browser.press("Make customer").await;
    browser
        .eventually("the name is explained", async |browser| {
            (browser.text("#make-customer-outcome").await == "Name is empty.").then_some(())
        })
        .await;
    let order = browser.place_order("5").await;
    browser.shows(&order, "APPROVED").await;
    assert_eq!(
        browser.run("return document.querySelectorAll('#place-order [aria-invalid]').length").await,
        0
    );
    let refused =
        |path| Expected { path, failure: "the server responded with a status of 400 (Bad Request)" };
    browser.close_expecting(&[refused("/api/orders"), refused("/api/customers")]).await;
}

async fn another_customer_brings_its_own_orders(style: &str) {
    let site = Site::shared(style).await;
    let browser = site.visit().await;
    let first = browser.make_customer("Alan", "10").await;
    let order = browser.place_order("7").await;
    browser.shows(&order, "APPROVED").await;
    browser.make_customer("Alonzo", "10").await;
    browser.eventually("no orders", async |browser| browser.orders().await.is_empty().then_some(())).await;
    assert_eq!(
        browser.text("#no-orders").await,
        "No orders yet. Place one, and watch the services settle it."
    );

    // An order of the first customer, placed elsewhere, does not show up here, and does there.
    let elsewhere = site.shop.order(first.parse().unwrap(), "2").await.to_string();
    let here = browser.place_order("3").await;
    browser.shows(&here, "APPROVED").await;
    assert_eq!(browser.orders().await.len(), 1);
    let path = format!("document.querySelector(`option[value='{first}']`)");
    let entry = browser.run(&format!("return {path}.textContent")).await;
    browser.choose("Orders of", entry.as_str().unwrap()).await;
    browser.shows(&elsewhere, "APPROVED").await;
    // The total of an order that was placed before the page was opened comes with the view.
    browser.reload().await;
    browser.is_live().await;
    browser
        .shows_that(&order, "APPROVED of 7", |shown| (&*shown.state, &*shown.total) == ("APPROVED", "7.00"))
        .await;
    browser.shows_that(&elsewhere, "with its total", |shown| shown.total == "2.00").await;
    browser.close().await;
}

async fn an_order_from_before_the_page_was_opened_shows_its_saga_when_it_is_unfolded(style: &str) {
    let site = Site::shared(style).await;
    let customer = site.shop.customer("10").await;
    let order = site.approved_order(customer, "3").await.to_string();
    let browser = Browser::open(&format!("{}#customer={customer}", site.url())).await;
    browser.is_live().await;
    let before = browser.shows_that(&order, "with its total", |shown| shown.total == "3.00").await;
    assert_eq!((before.state.as_str(), before.saga.as_str()), ("APPROVED", ""));
    browser.run("document.querySelector('.way summary').click()").await;
    if style == "orchestration" {
        browser.shows_that(&order, "its saga", |shown| shown.saga == "Saga CreateOrder: COMPLETED").await;
    }
    // Only the answer tells that there is none.
    let failure = "the server responded with a status of 404 (Not Found)";
    browser.close_expecting(&[Expected { path: "/api/orders/*/saga", failure }]).await;
}
