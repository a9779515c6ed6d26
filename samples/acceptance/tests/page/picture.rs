//! The picture of the page in the documentation, made of the real shop.

use std::{env, fs, path::PathBuf};

use crate::{browser::Browser, orders::agreement_is, site::Site};

/// Largest picture that documentation loads at once.
const BYTES_MAX: usize = 200_000;

/// Takes a picture of the whole page at this width.
async fn picture(browser: &Browser, width: u32, colours: &str) -> Vec<u8> {
    browser.look(width, 740, colours).await;
    let height = browser.run("return document.documentElement.scrollHeight").await;
    browser.look(width, height.as_u64().and_then(|height| height.try_into().ok()).unwrap(), colours).await;
    browser.picture().await
}

#[tokio::test]
#[ignore = "needs Chromium: make test-page"]
async fn the_picture_in_the_documentation_shows_the_page() {
    let site = Site::open("orchestration", "picture").await;
    let browser = site.visit().await;
    browser.make_customer("Ada Lovelace", "100.00").await;
    let cancelled = browser.place_order("60.00").await;
    browser.shows(&cancelled, "APPROVED").await;
    browser.press("Cancel").await;
    let is_whole = |shown: &crate::shown::ShownOrder| shown.saga == "Saga CancelOrder: COMPLETED";
    browser.shows_that(&cancelled, "cancelled as a whole", is_whole).await;
    let rejected = browser.place_order("1250.50").await;
    browser.shows_that(&rejected, "rejected", |shown| shown.saga == "Saga CreateOrder: COMPENSATED").await;
    let approved = browser.place_order("12.34").await;
    browser.shows_that(&approved, "approved", |shown| shown.saga == "Saga CreateOrder: COMPLETED").await;
    agreement_is(&browser, "Both answers are the same.").await;
    browser.run("document.activeElement.blur()").await;

    let target = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/page"));
    fs::create_dir_all(&target).unwrap();
    for (name, width, colours) in
        [("shop-phone.png", 360, "light"), ("shop-dark.png", 1120, "dark"), ("shop.png", 1120, "light")]
    {
        let picture = picture(&browser, width, colours).await;
        assert!(
            picture.starts_with(b"\x89PNG") && picture.len() < BYTES_MAX,
            "{name}: {} bytes",
            picture.len()
        );
        fs::write(target.join(name), &picture).unwrap();
        if name == "shop.png" && env::var("OUTBOXD_DOCS").is_ok_and(|value| value == "write") {
            fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/images/shop.png"), &picture).unwrap();
        }
    }
    browser.close().await;
}
