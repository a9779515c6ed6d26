//! What must hold after each round.

use std::time::Duration;

use crate::{
    faults::Fault,
    plan::Round,
    report::{Allowed, Outcome},
    run::Run,
    world::IN_FLIGHT_MAX,
    writers::ROWS_MAX,
};

/// Of an instance, whatever happens: in flight are at most 16 MB, and batches of rows, frames and confirms come on top.
const MEMORY_MAX_MB: u64 = 120;

/// A server that restarts has forgotten how far its slot was confirmed. The slot's record is written once a second; five are
/// allowed, as the machine is busy and a second fault may hold the write up.
pub(crate) const RECORD_BEHIND: Duration = Duration::from_secs(5);

/// How often messages of a key that is nacked are tried again, one at a time with growing waits, while a queue is full here.
const NACKED_TURNS_MAX: u64 = 64;

/// What the same refusal may cost one row: a copy after the connection that this fault closes, two while the refused message is
/// searched for, and none for each further attempt.
fn copies_of_one_row(fault: Fault) -> Option<u64> {
    match fault {
        Fault::RowRefused => Some(3),
        Fault::QueueFull => Some(NACKED_TURNS_MAX),
        _ => None,
    }
}

/// Copies for a refusal, however long it lasts. A message that makes the broker close the channel is searched for among those that
/// were in flight, and each of these is sent at most twice more. A message that is nacked is sent again once its queue has room;
/// until then those of its key take turns.
fn copies_while_refused(fault: Fault) -> u64 {
    match fault {
        Fault::RowRefused => 2 * IN_FLIGHT_MAX,
        Fault::QueueFull => IN_FLIGHT_MAX + NACKED_TURNS_MAX,
        _ => 0,
    }
}

impl Run {
    /// The most that the promise allows: what was in flight, for each lost connection; after the loss of a process also what was
    /// confirmed in the last 100 ms (a second, as the machine is busy) and the beginning of a transaction that was not
    /// whole. Of what a server that restarts has forgotten the process that has the slot repeats nothing; when that one is
    /// lost, too, or another gets the slot, what the slot's record does not say yet is repeated.
    /// Refusals that last cost copies of their own, see [`copies_while_refused`].
    pub(crate) fn allowed(&self, round: &Round, reconnects: u64, recent: u64) -> Allowed {
        let rate_peak = self.watch.totals().rate_peak;
        let lossy = round.strikes().filter(|strike| !strike.kind.fault.repeats_nothing()).count() as u64;
        let process_lost =
            lossy > 0 && (round.standby || round.strikes().any(|strike| strike.kind.fault.ends_process()));
        let slot_set_back =
            process_lost && round.strikes().any(|strike| strike.kind.fault.forgets_slot_position());
        let duplicates = (reconnects + lossy) * IN_FLIGHT_MAX
            + if process_lost { rate_peak + ROWS_MAX as u64 } else { 0 }
            + if slot_set_back { recent + rate_peak } else { 0 }
            + round.strikes().map(|strike| copies_while_refused(strike.kind.fault)).sum::<u64>();
        Allowed { duplicates, slot_set_back }
    }

    /// The first promise that is broken, if one is.
    pub(crate) fn broken_promise(&self, round: &Round, outcome: &Outcome) -> Option<String> {
        let few = |sentences: &[String]| sentences.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
        for (queue, consumer) in [("witness", &self.witness), ("service", &self.service)] {
            let arrivals = consumer.arrivals();
            if !arrivals.out_of_order.is_empty() {
                return Some(format!("out of order at {queue}: {}", few(&arrivals.out_of_order)));
            }
            if !arrivals.unlike.is_empty() {
                return Some(format!("unlike at {queue}: {}", few(&arrivals.unlike)));
            }
        }
        let witness = self.witness.arrivals();
        if witness.missing > 0 {
            return Some(format!("{} rows overtaken or lost: {}", witness.missing, few(&witness.gaps())));
        }
        if outcome.duplicates > outcome.allowed.duplicates {
            return Some(format!(
                "{} duplicates, {} allowed",
                outcome.duplicates, outcome.allowed.duplicates
            ));
        }
        let most = copies_of_one_row(round.first.kind.fault).filter(|_| round.second.is_none());
        if most.is_some_and(|most| witness.most_copies() > most) {
            return Some(format!("{} copies of one row", witness.most_copies()));
        }
        let totals = self.watch.totals();
        if totals.memory_peak_mb > MEMORY_MAX_MB {
            return Some(format!("an instance took {} MB of memory", totals.memory_peak_mb));
        }
        totals.deaths.first().cloned()
    }
}
