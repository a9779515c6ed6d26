//! Searches: by name, id, state and total, in pages, and with hostile text.

use hyper::Method;

use super::{Views, ids};
use crate::eventually;

#[tokio::test]
#[ignore = "needs Go and Java: make test-views"]
async fn orders_are_found_by_name_id_state_and_total() {
    let views = Views::open("found").await;
    let (ada, grace) = (
        views.customer("Ada Lovelace", "10").await,
        views.customer("Grace \"Amazing\" Hopper", "1e12").await,
    );
    let small = views.shop.order(ada, "9.9999").await;
    let large = views.shop.order(ada, "10.0001").await;
    let largest = views.shop.order(grace, "1000000000000").await;
    let nearly = views.shop.order(grace, "999999999999.9999").await;
    let all = [small, large, largest, nearly];
    for (query, expected) in [
        (String::new(), &all[..]),
        ("q=lovelace".to_owned(), &all[..2]),
        ("q=LOVELACE%20ada".to_owned(), &all[..2]),
        ("q=lovelace%20approved".to_owned(), &all[..1]),
        ("q=hopper%20%22amazing%22".to_owned(), &all[2..]),
        (format!("q={small}"), &all[..1]),
        (format!("q=ada%20{largest}"), &[]),
        ("state=REJECTED".to_owned(), &[large, nearly]),
        ("q=approved".to_owned(), &[small, largest]),
        ("min=10".to_owned(), &all[1..]),
        ("max=10".to_owned(), &all[..1]),
        ("min=9.9999&max=9.9999".to_owned(), &all[..1]),
        ("min=9.99990001".to_owned(), &[]),
        ("min=1000000000000".to_owned(), &[largest]),
        ("max=999999999999.9999&min=11".to_owned(), &[nearly]),
        ("q=love*".to_owned(), &[]),
    ] {
        if query == "min=9.99990001" {
            assert_eq!(views.search.get(&format!("/orders/search?{query}")).await.0, 400, "too precise");
            continue;
        }
        views.finds(&query, expected).await;
    }
    // Pages.
    let mut page = "/orders/search?q=ada&limit=1".to_owned();
    let mut pages = Vec::new();
    loop {
        let answer = views.search.send(Method::GET, &page, &[], String::new()).await;
        let body: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
        pages.extend(ids(body["orders"].as_array().unwrap()));
        let Some(link) = answer.headers().get("link") else { break };
        page = link
            .to_str()
            .unwrap()
            .strip_prefix('<')
            .unwrap()
            .strip_suffix(">; rel=\"next\"")
            .unwrap()
            .to_owned();
    }
    assert_eq!(pages, [small, large]);
}

#[tokio::test]
#[ignore = "needs Go and Java: make test-views"]
async fn no_question_makes_it_fail() {
    let views = Views::open("hostile").await;
    let customer = views.customer("O'Brien <b>{{7*7}}</b> \\ \"", "10").await;
    let order = views.shop.order(customer, "1").await;
    views.finds("q=o%27brien", &[order]).await;
    let encode = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let mut texts: Vec<String> = [
        "\"",
        "\\",
        "'",
        "*",
        "?",
        "a*b?c",
        "AND OR NOT",
        "(((",
        "]}",
        "/.*/",
        "state:APPROVED",
        "_exists_:x",
        "\u{0}",
        "\u{7f}\r\n\t",
        "{\"match_all\":{}}",
        "\u{202e}\u{feff}",
        "🦀",
        "日本語",
        "' OR 1=1 --",
        "${jndi:ldap://x}",
        "~1",
        "^9",
        "+-&|!",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.extend(["x".repeat(500), "a ".repeat(250), "日".repeat(500), "\"".repeat(500)]);
    for text in &texts {
        for parameter in ["q", "state", "min", "max", "limit", "after"] {
            let path = format!("/orders/search?{parameter}={}", encode(text));
            let (status, answer) = views.search.get(&path).await;
            assert!(
                status == 200 || (status == 400 && parameter != "q"),
                "{parameter} {text:?}: {status} {answer}"
            );
        }
    }
    for long in ["y".repeat(10_240), "a ".repeat(5_120)] {
        let (status, answer) =
            views.search.get(&format!("/orders/search?q={}", long.replace(' ', "%20"))).await;
        assert_eq!((status, &answer["field"]), (400, &"q".into()), "{answer}");
    }
    for broken in [
        "q=%FF",
        "q=%",
        "q=a&q=b",
        "limit=0",
        "limit=10001",
        "min=1e400",
        "max=-1",
        "min=NaN",
        "unknown=1",
        "&&=&",
    ] {
        let status = views.search.get(&format!("/orders/search?{broken}")).await.0;
        assert!(status == 200 || status == 400, "{broken}: {status}");
    }
    eventually("it still answers", async || {
        (ids(&views.found("q=o%27brien").await) == [order]).then_some(())
    })
    .await;
}
