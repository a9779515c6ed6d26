//! Commands and signals: a command that publishes drains first, any other command ends at once.

use std::time::Duration;

use super::Failure;
use process::shutdown::{Shutdown, StopSignals, shutdown};

/// Runs a job to its end. The first signal asks the job to drain within `drain_timeout`, a second one ends it at once.
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
        "draining: waiting for the confirms of messages in flight; a second signal ends the command at once"
    );
    trigger.request(drain_timeout);
    tokio::select! {
        done = job => Ok(done),
        _ = stop.next() => {
            Err(Failure::Runtime("ended by a second signal before every message was confirmed; run the command again".to_owned()))
        }
    }
}

/// Runs a job to its end, or to the first signal. For jobs that may stop anywhere and run again.
pub(super) async fn until_stopped(job: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut stop = StopSignals::listen().map_err(|error| Failure::runtime(&error))?;
    tokio::select! {
        done = job => done,
        signal = stop.next() => Err(Failure::Runtime(format!(
            "ended by {signal} before the command was done; run it again: it continues with what is missing"
        ))),
    }
}
