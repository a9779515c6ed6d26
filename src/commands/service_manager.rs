//! Keeps the service manager informed while `outboxd run` runs: ready, the sources' states, the watchdog, the drain.
//!
//! The watchdog is told of progress only: of each source, some loop has turned lately. A loop that waits for a server, another
//! instance or a person turns, too. On the one thread of all sources, a call that blocks also keeps this task from telling
//! anything.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::admin::Board;
use process::{clock::now, heartbeat::TURN_MAX, service_manager::ServiceManager, shutdown::Shutdown};

/// Interval at which the sources' states are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Part of the watchdog's interval within which each loop must have turned, and in which the watchdog is told so several times.
const TURN_PART: u32 = 2;
const TELL_PART: u32 = 4;

/// Longest end of a process after the drain timeout: both connections are closed, and the slot's record is written.
const FAREWELL_MAX: Duration = Duration::from_secs(30);

/// Tells `manager` that the process is ready, and then whatever changes, until dropped. Call it when the sources are supervised.
pub(super) async fn inform(manager: ServiceManager, board: Board, mut shutdown: Shutdown) {
    let mut watchdog = manager.watchdog().map(|interval| Watchdog::new(interval, now()));
    let pause = manager.watchdog().map_or(LOOK_INTERVAL, |interval| LOOK_INTERVAL.min(interval / TELL_PART));
    let mut told: Option<String> = None;
    let mut draining: Option<Instant> = None;
    loop {
        let mut news: Vec<(&str, String)> = Vec::new();
        let status = match draining {
            Some(_) => format!("draining; {}", board.summary()),
            None => board.summary(),
        };
        if told.as_ref() != Some(&status) {
            news.push(match draining {
                Some(_) => ("STOPPING", "1".to_owned()),
                None => ("READY", "1".to_owned()),
            });
            news.push(("STATUS", status.clone()));
            if let Some(deadline) = draining {
                // The drain has its own limit. TimeoutStopSec need not be longer.
                let left = (deadline + FAREWELL_MAX).saturating_duration_since(now());
                news.push(("EXTEND_TIMEOUT_USEC", left.as_micros().to_string()));
            }
        }
        if watchdog.as_mut().is_some_and(|watchdog| watchdog.is_due(&board, now())) {
            news.push(("WATCHDOG", "1".to_owned()));
        }
        if !news.is_empty() {
            let assignments: Vec<(&str, &str)> = news.iter().map(|(name, value)| (*name, &**value)).collect();
            match manager.tell(&assignments) {
                Ok(()) => told = Some(status),
                // Nothing depends on one datagram. The next look sends the news again.
                Err(error) => tracing::debug!(%error, "the service manager could not be told; trying again"),
            }
        }
        // Priorities: (1) shutdown; (2) the next look.
        tokio::select! {
            biased;
            deadline = shutdown.requested(), if draining.is_none() => draining = Some(deadline),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Decides when the watchdog is told that everything works.
struct Watchdog {
    /// Longest time since the last turn of a loop that works.
    turn_max: Duration,
    interval: Duration,
    next: Instant,
    /// Sources whose loops do not turn, as logged.
    hanging: BTreeSet<String>,
}

impl Watchdog {
    fn new(interval: Duration, now: Instant) -> Self {
        // A loop that works is given two turns, also under a watchdog of a second.
        let turn_max = (interval / TURN_PART).max(TURN_MAX * 2);
        Self { turn_max, interval, next: now, hanging: BTreeSet::new() }
    }

    /// Tells whether the watchdog is to be told now. Logs sources that begin or cease to hang.
    fn is_due(&mut self, board: &Board, now: Instant) -> bool {
        let hanging = board.hanging(self.turn_max);
        let limit_s = self.interval.as_secs();
        for (source, age) in &hanging {
            if self.hanging.insert(source.clone()) {
                tracing::error!(
                    source,
                    "outboxd hangs: the loop of this source has done nothing for {} s. Its messages wait. The watchdog of the service manager \
                     (WatchdogSec, {limit_s} s) restarts outboxd, which publishes unconfirmed messages again. Please report it with this log",
                    age.as_secs()
                );
            }
        }
        self.hanging.retain(|name| hanging.iter().any(|(source, _)| source == name));
        if !hanging.is_empty() || now < self.next {
            return false;
        }
        self.next = now + self.interval / TELL_PART;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_told_while_every_loop_turns() {
        let board = Board::new();
        let (works, hangs) = (board.reporter("works"), board.reporter("hangs"));
        let mut watchdog = Watchdog::new(Duration::from_secs(60), now());
        let mut told = 0;
        for _ in 0..120 {
            works.heartbeat().turn();
            hangs.heartbeat().turn();
            told += u32::from(watchdog.is_due(&board, now()));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(told, 8, "every 15 s");
        // One of two loops does not turn any more.
        let mut told_for_s = 0;
        for second in 0..120 {
            works.heartbeat().turn();
            if watchdog.is_due(&board, now()) {
                told_for_s = second;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!((15..=30).contains(&told_for_s), "{told_for_s}");
        // It goes on by itself.
        hangs.heartbeat().turn();
        works.heartbeat().turn();
        assert!(watchdog.is_due(&board, now()) && watchdog.hanging.is_empty());
        // An ended source is not waited for, and a drain lasts.
        tokio::time::sleep(Duration::from_secs(300)).await;
        hangs.heartbeat().end();
        works.heartbeat().turn();
        assert!(watchdog.is_due(&board, now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_interval_leaves_a_waiting_loop_its_turns() {
        let board = Board::new();
        let waits = board.reporter("waits").heartbeat().clone();
        let waiting = tokio::spawn(async move { waits.through(std::future::pending::<()>()).await });
        let mut watchdog = Watchdog::new(Duration::from_secs(1), now());
        for _ in 0..1000 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            assert!(watchdog.is_due(&board, now()));
        }
        waiting.abort();
    }
}
