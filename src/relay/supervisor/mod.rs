//! The life of one source: connect, acquire the slot or stand by, run, back off, drain.
//!
//! Recovery is crash-only. A lost connection, a timeout or a closed channel ends the whole attempt. Only the [`Carryover`] is kept,
//! and the next attempt is like the first. There is one way back, and every fault uses it.
//!
//! Imports run downward:
//!
//! ```text
//! attempt      from the first connection to the fault that ends it, stage by stage
//! connect      both links, and the checks before the slot is touched
//! acquire      the slot exists, or is created, or another instance has it
//! claim        writes holder and position to the slot's record
//!   gap          detects and records that rows may be missing
//!   streaming    the started stream of the slot
//! carryover    state that an attempt leaves to the next
//! ```

use std::time::Duration;

use super::{
    Ended, Shutdown, Source, Verdict,
    backoff::Backoff,
    broker::Broker,
    database::Database,
    deadline::sleep_until,
    monitor::{keep_in_use, look_on},
};
use crate::{
    admin::{Reporter, SourceState},
    ledger::Settled,
};
use process::clock::now;

mod acquire;
mod attempt;
mod carryover;
mod claim;
mod connect;
mod gap;
mod streaming;

use attempt::Attempt;
use carryover::Carryover;

/// Interval at which a source that halted for its slot checks whether the slot was recovered.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(3);

/// Relays one source until `shutdown`. The source's heartbeat shows that this loop, and each loop within it, turns.
pub async fn supervise<D: Database, B: Broker>(
    source: Source<D, B>,
    report: Reporter,
    mut shutdown: Shutdown,
) -> Ended {
    let mut carryover = Carryover::new();
    let mut backoff = Backoff::new(source.relay.backoff_min, source.relay.backoff_max);
    loop {
        let before = carryover.settled.progress;
        let attempt = Attempt { source: &source, report: &report, number: backoff.attempts() as usize };
        let fault = match attempt.run(&mut carryover, &mut shutdown).await {
            Ok(ended) => return ended,
            Err(fault) => fault,
        };
        if carryover.settled.progress != before {
            backoff.reset();
        }
        let verdict = fault.verdict();
        let wait = match verdict {
            Verdict::Again | Verdict::HaltUntilMended => {
                let state = match verdict {
                    Verdict::HaltUntilMended => SourceState::Halted,
                    _ => SourceState::Connecting,
                };
                report.state(state, fault.explain());
                if std::mem::take(&mut carryover.was_connected) {
                    carryover.lost = Some(fault.side());
                }
                Some(backoff.next_wait())
            }
            Verdict::HaltUntilRecovered => {
                report.state(SourceState::Halted, fault.explain());
                // The next slot alone decides where to continue.
                carryover.settled = Settled::default();
                Some(RECOVERY_INTERVAL)
            }
            Verdict::Halt => {
                report.state(SourceState::Halted, fault.explain());
                None
            }
        };
        let next_attempt = wait.map(|wait| now() + wait);
        // `look_on` does this too, but a short wait ends before it gets there.
        if std::mem::take(&mut carryover.slot_wants_use) && verdict != Verdict::HaltUntilRecovered {
            // Priorities: (1) shutdown; (2) the use of the slot.
            tokio::select! {
                biased;
                _ = shutdown.requested() => return carryover.ended(),
                () = report.heartbeat().through(keep_in_use(&source.database, &report)) => {}
            }
        }
        let looking = look_on(&source.database, &report, verdict != Verdict::HaltUntilRecovered);
        // Priorities: (1) shutdown; (2) the next attempt; (3) looks at the slot meanwhile.
        tokio::select! {
            biased;
            _ = shutdown.requested() => return carryover.ended(),
            () = sleep_until(next_attempt) => {}
            never = report.heartbeat().through(looking) => match never {},
        }
    }
}
