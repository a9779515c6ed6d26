//! The promises that are checked after each round.

use std::time::Duration;

use crate::{
    faults::Fault,
    plan::Round,
    report::{Allowed, Outcome},
    run::Run,
    world::IN_FLIGHT_MAX,
    writers::ROWS_MAX,
};

/// Memory limit of an instance in MB: at most 16 MB are in flight, plus batches of rows, frames and confirms.
const MEMORY_MAX_MB: u64 = 120;

/// A restarted server has lost the slot's latest confirmed position. outboxd writes its record of the slot once a second; five
/// are allowed, because the machine is busy and a second fault may delay the write.
pub(crate) const RECORD_BEHIND: Duration = Duration::from_secs(5);

/// Most attempts for a nacked key, one message at a time with growing waits, while a queue is full in this test.
const NACKED_TURNS_MAX: u64 = 64;

/// Copies that one refusal may cost one row: one after the connection that this fault closes, two during the search for the
/// refused message, none for later attempts.
fn copies_of_one_row(fault: Fault) -> Option<u64> {
    match fault {
        Fault::RowRefused => Some(3),
        Fault::QueueFull => Some(NACKED_TURNS_MAX),
        _ => None,
    }
}

/// Copies for a refusal, however long it lasts. When the broker closes the channel for a message, each message in flight is sent
/// at most twice more during the search. A nacked message is sent again when its queue has room; until then the messages of its
/// key take turns.
fn copies_while_refused(fault: Fault) -> u64 {
    match fault {
        Fault::RowRefused => 2 * IN_FLIGHT_MAX,
        Fault::QueueFull => IN_FLIGHT_MAX + NACKED_TURNS_MAX,
        _ => 0,
    }
}

impl Run {
    /// Limit of duplicates: the messages in flight for each lost connection. After the loss of a process also the messages
    /// confirmed in the last 100 ms (a second here, as the machine is busy), and the start of an incomplete transaction. A
    /// position that a restarted server has lost repeats nothing while the same process keeps the slot; otherwise the messages
    /// beyond the slot's record are repeated. Lasting refusals add their own copies, see [`copies_while_refused`].
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

    /// The first broken promise, if any.
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
