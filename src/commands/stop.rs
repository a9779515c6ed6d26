//! The end of a command by a signal: one that publishes drains first, any other ends at once.

use std::time::Duration;

use super::Failure;
use process::shutdown::{Shutdown, StopSignals, shutdown};

/// Runs a job to its end; the first signal asks it to drain within `drain_timeout`, a second one ends it at once.
pub(super) async fn stoppable<T>(
    drain_timeout: Duration,
    job: impl AsyncFnOnce(Shutdown) -> T,
) -> Result<T, Failure> {
    let mut stop = StopSignals::listen().map_err(|error| Failure::runtime(&error))?;
    let (trigger, shutdown) = shutdown();
    let mut job = std::pin::pin!(job(shutdown));
    let signal = tokio::select! {
        done = &mut job => return Ok(done),
        signal = stop.next() => signal,
    };
    tracing::info!(
        signal,
        drain_timeout_s = drain_timeout.as_secs(),
        "draining; a second signal ends at once"
    );
    trigger.request(drain_timeout);
    tokio::select! {
        done = job => Ok(done),
        _ = stop.next() => {
            Err(Failure::Runtime("ended by a second signal before everything was confirmed".to_owned()))
        }
    }
}

/// Runs a job to its end, or to the first signal. For jobs that may be cut anywhere and run again.
pub(super) async fn until_stopped(job: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut stop = StopSignals::listen().map_err(|error| Failure::runtime(&error))?;
    tokio::select! {
        done = job => done,
        signal = stop.next() => Err(Failure::Runtime(format!(
            "ended by {signal} before it was done; run it again: it does what is left"
        ))),
    }
}
