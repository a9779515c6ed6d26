//! The request to end: from the operating system, and as every task sees it.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::clock::now;

/// Held by whoever may end the program.
#[derive(Debug)]
pub struct ShutdownTrigger {
    deadline: watch::Sender<Option<Instant>>,
}

/// Held by each task that is to drain.
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
    /// Asks every task to drain within `drain_timeout`.
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
    pub(crate) async fn overdue(&mut self) {
        let deadline = self.requested().await;
        tokio::time::sleep_until(deadline.into()).await;
    }
}

/// SIGTERM and SIGINT, as the operating system sends them.
#[derive(Debug)]
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on neither ends the process by itself.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them; gives its name. Cancel-safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
