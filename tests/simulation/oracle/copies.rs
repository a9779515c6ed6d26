//! Limits on copies: how often and when a message is sent again, what one message costs the others, and the cost of a lasting
//! refusal.

use std::collections::HashSet;

use outboxd::relay::{OnNack, RelayOptions};
use tokio::time::Instant;

use super::{
    Oracle, Sender,
    again::{Route, Turns, least_wait},
};
use crate::wal::{self, RowId};

/// Failed turns before the messages of a key are parked, if policy says so.
const NACKS_BEFORE_PARKING: u32 = 8;

impl Oracle {
    fn route(&mut self, row: RowId) -> Route {
        let aggregate = self.row(row).aggregate;
        (wal::aggregate_type(aggregate), wal::routing_key(row))
    }

    /// The broker did not take a message. Later messages of its aggregate may be told to pass it.
    pub(crate) fn refused(&mut self, row: RowId) {
        self.row(row).refused = true;
    }

    /// A process hears that its channel was closed for `guilty`, and that all of these were outstanding.
    ///
    /// A message is sent once with the whole window, once in a small batch, and then alone: three times at most for a closed
    /// channel, unless it was nacked or returned in between.
    pub(crate) fn channel_closed(
        &mut self,
        process: u64,
        connection: u64,
        guilty: RowId,
        rows: &[RowId],
        now: Instant,
    ) {
        if self.sender(process) != Sender::Relay {
            if let [alone] = rows {
                self.command_refused(process, *alone);
            }
            return;
        }
        for row in rows {
            self.process(process).in_flight.remove(row);
        }
        let again = self.again.entry(connection).or_default();
        again.turns_unknown = true;
        if let [alone] = rows {
            return self.found_guilty(connection, *alone, now);
        }
        for row in rows {
            let seen = again.rows.entry(*row).or_default();
            seen.closes += 1;
            if seen.closes > 2 * (1 + seen.refusals) {
                let what = format!(
                    "row {row} was in flight with others {} times as the channel was closed for one, now for row {guilty}",
                    seen.closes
                );
                return self.violated(what);
            }
        }
    }

    /// A process hears that its channel was closed for a deleted exchange, and that all of these were outstanding. A single one is
    /// sent again at once, because its exchange is declared first.
    pub(crate) fn exchange_missed(&mut self, process: u64, connection: u64, rows: &[RowId]) {
        for row in rows {
            self.process(process).in_flight.remove(row);
        }
        self.again.entry(connection).or_default().turns_unknown = true;
    }

    /// A process hears that the exchange of a row is refused.
    pub(crate) fn exchange_refused(&mut self, process: u64, connection: u64, row: RowId, now: Instant) {
        if self.sender(process) != Sender::Relay {
            return self.command_refused(process, row);
        }
        self.refused(row);
        self.again.entry(connection).or_default().turns_unknown = true;
        self.found_guilty(connection, row, now);
    }

    fn found_guilty(&mut self, connection: u64, row: RowId, now: Instant) {
        self.row(row).returned_last = true;
        let seen = self.again.entry(connection).or_default().rows.entry(row).or_default();
        let times = seen.guilty.map_or(0, |(times, _)| times) + 1;
        seen.guilty = Some((times, now));
    }

    /// A message is sent, perhaps again.
    pub(super) fn sent_again(&mut self, connection: u64, row: RowId, now: Instant, options: &RelayOptions) {
        self.row(row).sent += 1;
        let route = self.route(row);
        let again = self.again.entry(connection).or_default();
        if let Some((times, at)) = again.rows.get(&row).and_then(|seen| seen.guilty)
            && at + least_wait(options, times) > now
        {
            let after = now - at;
            return self.violated(format!(
                "row {row} is sent again {after:?} after it was refused for the {times}. time, which is too soon"
            ));
        }
        let Some(turns) = again.turns.get_mut(&route).filter(|_| !again.turns_unknown) else { return };
        if !turns.waiting.remove(&row) {
            return;
        }
        turns.out.insert(row);
        if turns.left == 0 {
            let batch = turns.batch;
            return self.violated(format!(
                "row {row} was nacked and is sent again, beside {batch} others of {route:?}"
            ));
        }
        turns.left -= 1;
        if turns.not_before > now {
            let (failures, after) = (turns.failures, now - turns.failed_at);
            self.violated(format!(
                "row {row} is sent again {after:?} after nacked turns of {route:?}, {failures} of them in vain: too soon"
            ));
        }
    }

    /// A process hears of a nack.
    pub(super) fn takes_turns(&mut self, connection: u64, row: RowId, now: Instant, options: &RelayOptions) {
        let route = self.route(row);
        let again = self.again.entry(connection).or_default();
        again.rows.entry(row).or_default().refusals += 1;
        if again.turns_unknown {
            return;
        }
        let turns = again.turns.entry(route).or_insert_with(|| Turns {
            waiting: HashSet::new(),
            out: HashSet::new(),
            batch: 1,
            left: 0,
            unanswered: 0,
            succeeded: 0,
            failed: 0,
            failures: 0,
            failed_at: now,
            not_before: now,
        });
        turns.waiting.insert(row);
        let in_turn = turns.out.remove(&row);
        if in_turn {
            turns.unanswered -= 1;
            turns.failed += 1;
        }
        if if in_turn { turns.failed == 1 } else { turns.unanswered == 0 } {
            turns.failures += 1;
            turns.failed_at = now;
        }
        turns.next_batch(options);
        if options.on_nack == OnNack::Park && turns.failures >= NACKS_BEFORE_PARKING {
            again.turns.remove(&route);
        }
    }

    /// A process hears that a message was not nacked this time.
    pub(super) fn ends_turn(
        &mut self,
        connection: u64,
        row: RowId,
        is_returned: bool,
        options: &RelayOptions,
    ) {
        let route = self.route(row);
        let again = self.again.entry(connection).or_default();
        again.rows.entry(row).or_default().refusals += u32::from(is_returned);
        let Some(turns) = again.turns.get_mut(&route) else { return };
        if turns.out.remove(&row) {
            turns.unanswered -= 1;
            turns.succeeded += 1;
            turns.failures = 0;
            turns.next_batch(options);
            if turns.waiting.is_empty() && turns.unanswered == 0 {
                again.turns.remove(&route);
            }
        }
    }
}
