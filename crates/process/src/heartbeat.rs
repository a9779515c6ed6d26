//! Heartbeat of a loop: the time of its last turn, for a watchdog.
//!
//! Knows turns and their age. Does not know loops, nor who restarts them.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::clock::now;

/// Longest time between two turns of a loop that works. A loop that waits longer wakes up for a turn.
pub const TURN_MAX: Duration = Duration::from_secs(2);

/// Value of a loop that has ended.
const ENDED: u64 = u64::MAX;

/// Time of the last turn of one loop. Clones share it.
#[derive(Clone, Debug)]
pub struct Heartbeat(Arc<Beats>);

#[derive(Debug)]
struct Beats {
    origin: Instant,
    /// Milliseconds since `origin`, or [`ENDED`].
    turned: AtomicU64,
}

impl Heartbeat {
    /// Returns the heartbeat of a loop that begins now.
    #[expect(clippy::new_without_default, reason = "reads the clock: two defaults would not be equal")]
    pub fn new() -> Self {
        Self(Arc::new(Beats { origin: now(), turned: AtomicU64::new(0) }))
    }

    /// Records a turn of the loop.
    pub fn turn(&self) {
        self.0.turned.store(self.milliseconds(), Ordering::Relaxed);
    }

    /// Records that the loop has ended, and makes no further turn.
    pub fn end(&self) {
        self.0.turned.store(ENDED, Ordering::Relaxed);
    }

    /// Returns the time since the last turn. `None`: the loop has ended.
    pub fn age(&self) -> Option<Duration> {
        match self.0.turned.load(Ordering::Relaxed) {
            ENDED => None,
            turned => Some(Duration::from_millis(self.milliseconds().saturating_sub(turned))),
        }
    }

    /// Awaits `wait`, and counts each look at it as a turn: for a wait that has a limit of its own, or that may last, such as one
    /// for a lock of another process. Cancel-safe if `wait` is.
    pub async fn through<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        loop {
            self.turn();
            // Priorities: (1) the end of the wait; (2) the next turn.
            tokio::select! {
                biased;
                done = &mut wait => return done,
                () = tokio::time::sleep(TURN_MAX) => {}
            }
        }
    }

    fn milliseconds(&self) -> u64 {
        // Below `ENDED` for as long as a process may run.
        u64::try_from(now().saturating_duration_since(self.0.origin).as_millis()).unwrap_or(ENDED - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_turns_is_young_and_one_that_hangs_ages() {
        let heartbeat = Heartbeat::new();
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!(heartbeat.age(), Some(Duration::from_secs(50)));
        heartbeat.turn();
        assert_eq!(heartbeat.age(), Some(Duration::ZERO));
        heartbeat.end();
        assert_eq!(heartbeat.age(), None);
        // Started again, as after a panic.
        heartbeat.turn();
        assert_eq!(heartbeat.age(), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_turns_for_as_long_as_it_lasts() {
        let heartbeat = Heartbeat::new();
        let waiting = heartbeat.clone();
        let wait = tokio::spawn(async move { waiting.through(std::future::pending::<()>()).await });
        for _ in 0..1000 {
            tokio::time::sleep(Duration::from_millis(970)).await;
            assert!(heartbeat.age().is_some_and(|age| age <= TURN_MAX), "{heartbeat:?}");
        }
        // Nobody looks at it any more.
        wait.abort();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(heartbeat.age().is_some_and(|age| age > Duration::from_secs(57)), "{heartbeat:?}");
        assert_eq!(heartbeat.through(async { 42 }).await, 42);
    }
}
