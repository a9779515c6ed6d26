//! Data that looks like markup or script.

use crate::site::Site;

in_both_styles!(a_hostile_name_stays_text);

const NAMES: [&str; 4] = [
    "<img src=x onerror=window.isHurt=1>",
    "\"><script>window.isHurt=1</script>",
    "</option></select><svg onload=window.isHurt=1>",
    "javascript:window.isHurt=1 &amp; &lt;b&gt; \u{202e}eman",
];

async fn a_hostile_name_stays_text(style: &str) {
    let browser = Site::shared(style).await.visit().await;
    // None of these is in the page itself.
    let foreign = "return document.querySelectorAll('img, script:not([src]), b, [onerror], [onload]').length";
    assert_eq!(browser.run(foreign).await, 0);
    for name in NAMES {
        browser.make_customer(name, "10").await;
        let order = browser.place_order("1").await;
        browser.shows(&order, "APPROVED").await;
        browser
            .eventually("the name in both answers", async |browser| {
                let answers = browser.answers().await;
                answers
                    .iter()
                    .all(|answer| answer.facts.first().is_some_and(|(_, text)| text == name))
                    .then_some(())
            })
            .await;
        let chosen = browser.run("return document.getElementById('customer').selectedOptions[0].text").await;
        assert_eq!(chosen, format!("{name} (limit 10.00)"));
    }
    // Also as the page reads them anew.
    browser.reload().await;
    browser.is_live().await;
    let last = format!("{} (limit 10.00)", NAMES[3]);
    browser
        .eventually("the last name", async |browser| {
            let chosen =
                browser.run("return document.getElementById('customer').selectedOptions[0]?.text").await;
            (chosen == last).then_some(())
        })
        .await;
    assert_eq!(browser.run("return window.isHurt ?? null").await, serde_json::Value::Null);
    assert_eq!(browser.run(foreign).await, 0);
    browser.close().await;
}
