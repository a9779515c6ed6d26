//! The page by keyboard alone, on a phone, in light and dark.

use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::{browser::Browser, site::Site};

in_both_styles!(
    a_first_order_is_placed_and_cancelled_by_keyboard_alone,
    a_phone_shows_everything_without_sideways_scrolling
);

/// What has the focus: the label of a field, the name of a button. Null when nothing has it, or nobody sees that it has.
const FOCUS: &str = "
    const focused = document.activeElement;
    const style = getComputedStyle(focused);
    if (focused === document.body || style.outlineStyle === 'none' || parseFloat(style.outlineWidth) < 2) return null;
    return focused.labels?.[0]?.innerText ?? focused.getAttribute('aria-label') ?? focused.innerText;";

async fn focus(browser: &Browser) -> Value {
    browser.run(FOCUS).await
}

/// Strikes Tab until this has the focus. Fails when the focus is not visible on the way.
async fn tab_to(browser: &Browser, wanted: &str) {
    for _ in 0..20 {
        browser.strike(Key::Tab).await;
        let focus = focus(browser).await;
        if focus == wanted {
            return;
        }
        assert!(focus.is_string(), "on the way to {wanted}: the focus is lost or not visible: {focus}");
    }
    panic!("Tab does not lead to {wanted}");
}

async fn a_first_order_is_placed_and_cancelled_by_keyboard_alone(style: &str) {
    let browser = Site::shared(style).await.visit().await;
    tab_to(&browser, "Name").await;
    browser.type_text("Ada").await;
    tab_to(&browser, "Credit limit").await;
    browser.strike(Key::Enter).await;
    browser
        .eventually("the customer is made", async |browser| {
            (browser.text("#make-customer-outcome").await == "Ada is a customer now.").then_some(())
        })
        .await;
    assert_eq!(focus(&browser).await, "Credit limit", "the focus stays");
    tab_to(&browser, "Total").await;
    tab_to(&browser, "Place order").await;
    browser.strike(Key::Enter).await;
    let approved = browser
        .eventually("APPROVED", async |browser| {
            browser.orders().await.into_iter().find(|order| order.state == "APPROVED")
        })
        .await;
    assert_eq!(focus(&browser).await, "Place order", "the focus stays");
    tab_to(&browser, "Cancel the order of 12.34").await;
    browser.strike(Key::Space).await;
    browser.shows(&approved.id, "CANCELLED").await;
    let focused = focus(&browser).await;
    assert!(focused.as_str().unwrap().starts_with("Its way: "), "the focus stays at the order: {focused}");
    let is_open = "return document.querySelector('.way').open";
    let before = browser.run(is_open).await;
    browser.strike(Key::Enter).await;
    assert_ne!(browser.run(is_open).await, before, "its way folds and unfolds");
    let announced = browser.run("return document.getElementById('news').textContent").await;
    assert_eq!(announced, "The order of 12.34 is CANCELLED.", "for people who hear the page");
    browser.close().await;
}

/// Elements that stick out of the page or hold more than fits, and targets that are too small for a finger.
const TROUBLE: &str = "
    const width = document.documentElement.clientWidth;
    const seen = [...document.querySelectorAll('main *, header *')].filter((each) => each.checkVisibility());
    const isFull = (each) => each.clientWidth > 0 && each.scrollWidth > each.clientWidth + 1 && !each.matches('input, select');
    const out = seen.filter((each) => each.getBoundingClientRect().right > width + 0.5 || isFull(each));
    const small = seen.filter((each) => each.matches('button, input, select, summary') && each.getBoundingClientRect().height < 24);
    const names = (elements) => elements.map((each) => `${each.tagName}.${each.className} ${each.innerText}`);
    return [document.documentElement.scrollWidth, names(out), names(small)];";

async fn a_phone_shows_everything_without_sideways_scrolling(style: &str) {
    let browser = Site::shared(style).await.visit().await;
    browser.look(360, 740, "light").await;
    // The longest name that the service takes, without a place to break, and the longest amounts.
    browser.make_customer(&"W".repeat(200), "1000000000000").await;
    for total in ["999999999999.9999", "12.34"] {
        let order = browser.place_order(total).await;
        browser
            .shows_that(&order, "settled", |shown| shown.state != "PENDING" && shown.events.len() >= 2)
            .await;
    }
    crate::orders::agreement_is(&browser, "Both answers are the same.").await;
    if style == "orchestration" {
        let both = async |browser: &Browser| {
            browser.orders().await.iter().all(|order| !order.saga.is_empty()).then_some(())
        };
        browser.eventually("both sagas", both).await;
    }
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })").await;
    for width in [360, 320, 768, 1240] {
        browser.look(width, 740, "light").await;
        assert_eq!(browser.run(TROUBLE).await, json!([width, [], []]), "{width} pixels wide");
    }
    browser.close().await;
}

/// Texts whose contrast with their ground is less than 4.5 (WCAG 2, AA).
const FAINT: &str = "
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const channels = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = (colour) => {
        const [r, g, b] = channels(colour).map((each) => each / 255)
            .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor;
            if (channels(colour)[3] === 255) return colour;
        }
        return 'white';
    };
    const hasText = (each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const texts = [...document.querySelectorAll('header *, main *')].filter((each) => each.checkVisibility() && hasText(each));
    const contrast = (each) => {
        const [one, other] = [luminance(getComputedStyle(each).color), luminance(ground(each))];
        return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    };
    const faint = texts.filter((each) => contrast(each) < 4.5);
    return [texts.length > 60, faint.map((each) => `${each.className} ${each.textContent}: ${contrast(each).toFixed(1)}`)];";

#[tokio::test]
#[ignore = "needs Chromium: make test-page"]
async fn every_text_can_be_read_in_light_and_in_dark() {
    let browser = Site::shared("choreography").await.visit().await;
    browser.make_customer("Ada", "100").await;
    for (total, state) in [("12.34", "APPROVED"), ("100", "REJECTED")] {
        let order = browser.place_order(total).await;
        browser.shows(&order, state).await;
    }
    browser.press("Cancel").await;
    browser
        .eventually("CANCELLED", async |browser| {
            browser.orders().await.iter().any(|order| order.state == "CANCELLED").then_some(())
        })
        .await;
    let order = browser.place_order("1").await;
    browser.shows(&order, "APPROVED").await;
    crate::orders::agreement_is(&browser, "Both answers are the same.").await;
    let ground = "return getComputedStyle(document.body).backgroundColor";
    let mut grounds = Vec::new();
    for colours in ["light", "dark"] {
        browser.look(1240, 900, colours).await;
        assert_eq!(browser.run(FAINT).await, json!([true, []]), "{colours}");
        grounds.push(browser.run(ground).await);
    }
    assert_ne!(grounds[0], grounds[1], "dark is another page");
    browser.close().await;
}
