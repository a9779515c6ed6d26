//! The request to end, as every source sees it.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::clock::now;

/// Held by whoever may end the daemon.
#[derive(Debug)]
pub struct ShutdownTrigger {
    deadline: watch::Sender<Option<Instant>>,
}

/// Held by each source.
#[derive(Clone, Debug)]
pub struct Shutdown {
    deadline: watch::Receiver<Option<Instant>>,
}

/// A trigger and what it reaches. Dropping the trigger requests nothing.
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(None);
    (ShutdownTrigger { deadline: sender }, Shutdown { deadline: receiver })
}

impl ShutdownTrigger {
    /// Asks every source to drain within `drain_timeout`.
    pub fn request(&self, drain_timeout: Duration) {
        self.deadline.send_replace(Some(now() + drain_timeout));
    }
}

impl Shutdown {
    /// Waits until the end is requested; gives the time by which draining must be over. Cancel-safe.
    pub async fn requested(&mut self) -> Instant {
        let requested = match self.deadline.wait_for(Option::is_some).await {
            Ok(deadline) => *deadline,
            Err(_) => None,
        };
        match requested {
            Some(deadline) => deadline,
            None => std::future::pending().await,
        }
    }

    /// Waits until the end is requested and the time for draining is over. Cancel-safe.
    pub(super) async fn overdue(&mut self) {
        let deadline = self.requested().await;
        tokio::time::sleep_until(deadline.into()).await;
    }
}
