//! The life of one source: connect, acquire the slot or stand by, run, back off, drain.
//!
//! Recovery is crash-only. A lost link, a timeout or a closed channel ends the whole attempt; what is kept is the
//! [`Carryover`], and the next attempt is like the first. There is one way back, and it is exercised all the time.
//!
//! Imports run downward:
//!
//! ```text
//! attempt      from the first connection to the fault that ends it, stage by stage
//!   connect      both links, and what must hold before a slot is touched
//!   acquire      the slot is there, or is made, or is waited for
//!   claim        whose the slot is, and where it was left, in its record
//!     gap          whether the slot may be used; what is missing is written down
//!     streaming    the slot's stream, just begun
//! carryover    what an attempt leaves to the next
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

/// How often a source that halted for its slot looks whether somebody has mended it.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(3);

/// Relays one source until `shutdown`; returns only then.
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
                // Whatever slot is made now, it alone says where to go on.
                carryover.settled = Settled::default();
                Some(RECOVERY_INTERVAL)
            }
            Verdict::Halt => {
                report.state(SourceState::Halted, fault.explain());
                None
            }
        };
        let next_attempt = wait.map(|wait| now() + wait);
        // A short wait ends before `look_on` has come so far.
        if std::mem::take(&mut carryover.slot_wants_use) && verdict != Verdict::HaltUntilRecovered {
            // Priorities: (1) being asked to end; (2) the use.
            tokio::select! {
                biased;
                _ = shutdown.requested() => return carryover.ended(),
                () = keep_in_use(&source.database, &report) => {}
            }
        }
        // Priorities: (1) being asked to end; (2) the next attempt; (3) looks at the slot meanwhile.
        tokio::select! {
            biased;
            _ = shutdown.requested() => return carryover.ended(),
            () = sleep_until(next_attempt) => {}
            never = look_on(&source.database, &report, verdict != Verdict::HaltUntilRecovered) => match never {},
        }
    }
}
