//! The life of one source: connect, acquire the slot or stand by, run, back off, drain.
//!
//! Recovery is crash-only. A lost link, a timeout or a closed channel ends the whole attempt; what is kept is
//! [`Known`], and the next attempt is like the first. There is one way back, and it is exercised all the time.
//!
//! ```text
//! attempt   from the first connection to the fault that ends it
//!   gap       whether the slot may be used; what is missing is written down
//!   acquire   the slot is there, or is made, or is waited for
//!   claim     whose the slot is, and where it was left, in its record
//! known     what an attempt leaves to the next
//! ```

use std::time::Duration;

use super::{
    RelayOptions, Shutdown, Verdict,
    backoff::Backoff,
    broker::Broker,
    database::Database,
    delivery::sleep_until,
    monitor::{keep_in_use, look_on},
};
use crate::{
    admin::{Reporter, SourceState},
    clock::now,
    ledger::Settled,
    outbox::Mapping,
    postgres::SourceDatabase,
    rabbitmq::PublisherOptions,
};

mod acquire;
mod attempt;
mod claim;
mod gap;
mod known;

use attempt::Attempt;
use known::Known;

/// Everything one source needs. Where its rows come from is a [`Database`], where its messages go a [`Broker`].
#[derive(Clone, Debug)]
pub struct Source<D = SourceDatabase, B = PublisherOptions> {
    /// Its name in the configuration.
    pub name: String,
    /// Where rows come from.
    pub database: D,
    /// How they become messages.
    pub mapping: Mapping,
    /// Where messages go.
    pub broker: B,
    /// How they get there.
    pub relay: RelayOptions,
}

/// How a source ended after it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is left in flight, or another instance has had the slot since, and with it whatever was.
    Drained,
    /// The drain timeout passed first, or a connection was lost and not made anew: what was unconfirmed will be published
    /// again, by whoever has the slot next.
    Undrained,
}

/// How often a source that halted for its slot looks whether somebody has mended it.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(3);

/// Relays one source until `shutdown`; returns only then.
pub async fn supervise<D: Database, B: Broker>(
    source: Source<D, B>,
    report: Reporter,
    mut shutdown: Shutdown,
) -> Ended {
    let mut known = Known::new();
    let mut backoff = Backoff::new(source.relay.backoff_min, source.relay.backoff_max);
    loop {
        let before = known.settled.progress;
        let attempt = Attempt { source: &source, report: &report, number: backoff.attempts() as usize };
        let fault = match attempt.run(&mut known, &mut shutdown).await {
            Ok(ended) => return ended,
            Err(fault) => fault,
        };
        if known.settled.progress != before {
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
                if std::mem::take(&mut known.was_connected) {
                    known.lost = Some(fault.side());
                }
                Some(backoff.next_wait())
            }
            Verdict::HaltUntilRecovered => {
                report.state(SourceState::Halted, fault.explain());
                // Whatever slot is made now, it alone says where to go on.
                known.settled = Settled::default();
                Some(RECOVERY_INTERVAL)
            }
            Verdict::Halt => {
                report.state(SourceState::Halted, fault.explain());
                None
            }
        };
        let next_attempt = wait.map(|wait| now() + wait);
        // A short wait ends before `look_on` has come so far.
        if std::mem::take(&mut known.slot_wants_use) && verdict != Verdict::HaltUntilRecovered {
            tokio::select! {
                biased;
                _ = shutdown.requested() => return known.ended(),
                () = keep_in_use(&source.database, &report) => {}
            }
        }
        tokio::select! {
            biased;
            _ = shutdown.requested() => return known.ended(),
            () = sleep_until(next_attempt) => {}
            never = look_on(&source.database, &report, verdict != Verdict::HaltUntilRecovered) => match never {},
        }
    }
}
