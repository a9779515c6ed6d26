//! Stores that are away, hang or refuse for long: nothing is lost, and the services say what is wrong.

use std::time::Duration;

use super::Views;
use crate::{eventually, settled};
use testkit::{FerretDb, OpenSearch, Service};

/// Longer than a service may be silent about a message that fails.
const LONG: Duration = Duration::from_secs(25);

/// Waits until both projectors say that they wait for their store.
async fn both_say_what_is_wrong(views: &Views) {
    for (service, queue) in [(&views.shop.history, "order-history"), (&views.search, "order-search")] {
        let said = eventually("it is not ready", async || {
            let (status, text) = service.get_text("/readyz").await;
            (status == 503).then_some(text)
        })
        .await;
        for part in [queue, "its first message has failed", "(view_url) cannot be used", "nothing is lost"] {
            assert!(said.contains(part), "no {part} in {said}");
        }
        assert_eq!(service.get_text("/healthz").await.0, 200, "the process works");
        let series = format!("inbox_retries_total{{queue=\"{queue}.orders\"}}");
        assert!(service.metric(&series).await >= Some(1.0));
        assert!(service.log().contains("failed; trying again"));
        eventually("it is behind", async || {
            let (_, lag) = service.get("/lag").await;
            (lag["streams"][0]["secondsBehind"].as_i64() >= Some(2)).then_some(())
        })
        .await;
    }
}

/// Checks that both views have caught up, and that no message was put aside.
async fn both_have_caught_up(views: &mut Views, customer: i64) {
    views.equal_the_orders(&[customer]).await;
    for service in views.projectors() {
        service.wait_ready(crate::PATIENCE).await;
    }
    for (service, queue) in [(&views.shop.history, "order-history"), (&views.search, "order-search")] {
        let dead = format!("inbox_messages_total{{outcome=\"dead\",queue=\"{queue}.orders\"}}");
        assert_eq!(service.metric(&dead).await, None, "nothing was put aside");
    }
}

async fn status(service: &Service, path: &str) -> (u16, String) {
    let (status, answer) = service.get(path).await;
    (status, answer["error"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
#[ignore = "needs Go and Java: make test-views"]
async fn stores_that_are_away_or_hang_for_long_lose_nothing() {
    let (mut ferretdb, mut opensearch) = tokio::join!(FerretDb::start(), OpenSearch::start());
    let mut views = Views::open_on("away", &ferretdb, &opensearch).await;
    let customer = views.customer("Ada", "1000").await;
    views.shop.order(customer, "1").await;
    views.equal_the_orders(&[customer]).await;
    let history = format!("/customers/{customer}/orderhistory");

    tokio::join!(ferretdb.kill9(), opensearch.kill9());
    for _ in 0..20 {
        views.shop.order(customer, "1").await;
    }
    for (service, path) in [(&views.shop.history, &*history), (&views.search, "/orders/search?q=ada")] {
        let (status, error) = status(service, path).await;
        assert_eq!(status, 503, "{error}");
        assert!(error.contains("a store behind this answer cannot be used now"), "{error}");
    }
    both_say_what_is_wrong(&views).await;
    // A kill meanwhile changes nothing.
    for service in views.projectors() {
        service.kill9().await;
        service.start_again();
    }
    tokio::join!(ferretdb.start_again(), opensearch.start_again());
    both_have_caught_up(&mut views, customer).await;

    // Connections stay, and nobody answers.
    ferretdb.suspend();
    opensearch.suspend();
    let last = views.shop.order(customer, "1").await;
    assert_eq!(settled(&views.shop, last).await.0, "APPROVED");
    both_say_what_is_wrong(&views).await;
    assert_eq!(status(&views.search, "/orders/search?q=ada").await.0, 503);
    ferretdb.resume();
    opensearch.resume();
    both_have_caught_up(&mut views, customer).await;
}

#[tokio::test]
#[ignore = "needs Go and Java: make test-views"]
async fn stores_that_refuse_writes_for_long_answer_and_lose_nothing() {
    let (mut ferretdb, opensearch) = tokio::join!(FerretDb::start(), OpenSearch::start());
    let mut views = Views::open_on("refuse", &ferretdb, &opensearch).await;
    let customer = views.customer("Ada", "1000").await;
    let first = views.shop.order(customer, "1").await;
    views.equal_the_orders(&[customer]).await;

    ferretdb.kill9().await;
    ferretdb.start_again_read_only().await;
    opensearch.refuse_writes(true).await;
    for _ in 0..20 {
        views.shop.order(customer, "1").await;
    }
    both_say_what_is_wrong(&views).await;
    tokio::time::sleep(LONG).await;
    views.finds("q=ada", &[first]).await;
    let (status, history) = views.shop.history.get(&format!("/customers/{customer}/orderhistory")).await;
    assert_eq!((status, history["orders"].as_array().map(Vec::len)), (200, Some(1)), "{history}");
    for service in views.projectors() {
        let output = service.command(&["rebuild"]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("the view is as it was"), "{output:?}");
    }
    ferretdb.kill9().await;
    ferretdb.start_again().await;
    opensearch.refuse_writes(false).await;
    both_have_caught_up(&mut views, customer).await;
}
