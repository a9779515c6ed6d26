//! The companion services from outside: real binaries, databases, broker and relay.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod saga;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

/// Long enough for a busy machine; a test that needs it all has failed.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `look` gives something; after [`PATIENCE`] the test has failed.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
