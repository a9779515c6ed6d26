//! Sleep until an optional deadline.

use std::time::Instant;

/// Waits until `deadline`, or for ever if there is none. Cancel-safe.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
