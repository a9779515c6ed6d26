//! The page of the sample shop in a real browser: headless Chromium, driven by chromedriver, before the real shop.
//!
//! `make test-page` installs both from Debian's packages. Each test has a browser with a profile of its own, which ends with
//! the test. A test also fails when anything stands in the browser's console that its scenario does not cause.

#![allow(clippy::unwrap_used, clippy::expect_used)]

/// Makes of each function, which takes the style of saga, a test in both styles.
macro_rules! in_both_styles {
    ($($test:ident),+ $(,)?) => {
        mod choreography {
            $(#[tokio::test] #[ignore = "needs Chromium: make test-page"] async fn $test() { super::$test("choreography").await })+
        }
        mod orchestration {
            $(#[tokio::test] #[ignore = "needs Chromium: make test-page"] async fn $test() { super::$test("orchestration").await })+
        }
    };
}

mod access;
mod away;
mod browser;
mod driver;
mod hostile;
mod orders;
mod picture;
mod shown;
mod site;
mod stream;
