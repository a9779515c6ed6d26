//! Checks at the broker: order, limits, the gate, and no unnecessary repetition.

use std::time::Duration;

use amqp_publisher::publisher::Outcome;
use outboxd::relay::RelayOptions;
use tokio::time::Instant;

use super::{Oracle, ProcessSeen, Sender, Settled};
use crate::{wal::RowId, world::WorldState};

impl Oracle {
    /// No uncommitted row is delivered, and rows of an aggregate are first delivered in commit order.
    pub(crate) fn delivered(&mut self, row: RowId) {
        let Some(seen) = self.rows.get_mut(&row) else {
            return self.violated(format!("row {row} was delivered and never committed"));
        };
        seen.delivered += 1;
        self.deliveries += 1;
        if seen.delivered > 1 {
            self.duplicates += 1;
            return;
        }
        if !seen.live {
            return;
        }
        let (aggregate, transaction) = (seen.aggregate, seen.transaction);
        // Applies to rows of other aggregates, too, until one is refused.
        let overtaken = (transaction..row).find(|before| {
            self.rows.get(before).is_some_and(|before| {
                let put_aside = before.exempt || before.invalid || before.refused;
                before.live && !put_aside && before.delivered == 0
            })
        });
        if let Some(before) = overtaken {
            return self.violated(format!("row {row} was delivered before row {before} of its transaction"));
        }
        for before in self.aggregates[&aggregate].iter().take_while(|before| **before != row) {
            let before_seen = &self.rows[before];
            let put_aside = before_seen.exempt || before_seen.dropped || before_seen.was_parked;
            let missing = before_seen.live && !put_aside && before_seen.delivered == 0;
            let traded = !self.per_aggregate && (before_seen.refused || before_seen.invalid);
            if missing && !traded {
                let what = format!("aggregate {aggregate}: row {row} was delivered before row {before}");
                return self.violated(what);
            }
        }
    }

    pub(crate) fn nacked(&mut self, row: RowId) {
        let row = self.row(row);
        (row.refused, row.nacked) = (true, true);
    }

    pub(crate) fn unroutable(&mut self, row: RowId) {
        self.row(row).refused = true;
    }

    pub(crate) fn returned(&mut self, process: u64, row: RowId) {
        self.row(row).returned_last = true;
        self.process(process).in_flight.remove(&row);
    }

    /// A process hears an outcome.
    pub(crate) fn answered(
        &mut self,
        connection: u64,
        row: RowId,
        outcome: &Outcome,
        now: Instant,
        options: &RelayOptions,
    ) {
        match outcome {
            _ if row == RowId::MAX => {}
            Outcome::Nacked => self.takes_turns(connection, row, now, options),
            Outcome::Returned { .. } => self.ends_turn(connection, row, true, options),
            Outcome::Confirmed => self.ends_turn(connection, row, false, options),
        }
    }

    pub(crate) fn told_nacked(&mut self, process: u64, row: RowId) {
        self.process(process).in_flight.remove(&row);
    }

    pub(crate) fn dropped(&mut self, process: u64, connection: u64, row: RowId, now: Instant) {
        self.row(row).dropped = true;
        self.told_confirmed(process, connection, row, now);
    }

    pub(crate) fn told_confirmed(&mut self, process: u64, connection: u64, row: RowId, now: Instant) {
        self.row(row).told_on = Some(connection);
        self.told_settled(process, row, now);
    }

    fn told_settled(&mut self, process: u64, row: RowId, now: Instant) {
        let seen = self.row(row);
        seen.settled.push(Settled { by: process, at: now });
        seen.returned_last = false;
        let ProcessSeen { handed, held, told, done, in_flight, epoch, settled_to, .. } =
            self.process(process);
        in_flight.remove(&row);
        told.insert(row);
        held.advance(|row| told.contains(row));
        *settled_to = held.rows[..held.settled].last().copied().unwrap_or(0).max(*settled_to);
        // A process remembers each row of the stream, also one that was settled ahead of others. A backlog begins again.
        if handed.contains(&row) {
            done.insert(row, *epoch);
        }
    }
}

impl WorldState {
    /// Two instances never publish at the same time: of two connections with one fence, the messages of the second begin after
    /// those of the first end.
    pub(crate) fn accepted(&mut self, connection: u64, fence: Option<&str>) {
        if self.scenario.unfenced {
            return;
        }
        let oracle = &mut self.oracle;
        let Some(fence) = fence else {
            return oracle.violated(format!("connection {connection} publishes without a fence"));
        };
        match oracle.publishing.insert(fence.to_owned(), connection) {
            Some(before) if before != connection => drop(oracle.superseded.insert(before)),
            _ => {}
        }
        if oracle.superseded.contains(&connection) {
            oracle.violated(format!("connection {connection} publishes although another took over from it"));
        }
    }

    /// A process hears that a row is parked.
    pub(crate) fn told_parked(&mut self, process: u64, row: RowId) {
        let now = self.now();
        if self.oracle.sender(process) != Sender::Relay {
            self.oracle.violated(format!("process {process} parks row {row}, and is to park nothing"));
        }
        self.note(|| format!("process {process} has parked row {row}"));
        let seen = self.oracle.row(row);
        (seen.parked, seen.was_parked) = (true, true);
        self.oracle.told_settled(process, row, now);
    }

    /// A message is handed to the broker.
    pub(crate) fn published(
        &mut self,
        process: u64,
        connection: u64,
        row: RowId,
        unanswered: &[(RowId, usize)],
        marked: bool,
        at_once: bool,
    ) {
        let now = self.now();
        self.note(|| format!("process {process} publishes row {row}"));
        // A process that does not read notices with its next status update.
        let notices = self.scenario.relay.keepalive_interval + Duration::from_millis(10);
        let oracle = &mut self.oracle;
        let (epoch, per_aggregate) = (oracle.epoch, oracle.per_aggregate);
        let Some(seen) = oracle.rows.get(&row) else {
            return oracle.violated(format!("row {row} was published and never committed"));
        };
        let aggregate = seen.aggregate;
        let told_here = seen.told_on == Some(connection);

        // Limits hold.
        let count = unanswered.len();
        let bytes: usize = unanswered.iter().map(|(_, bytes)| bytes).sum();
        let largest = unanswered.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        if count > oracle.in_flight_max {
            let max = oracle.in_flight_max;
            oracle.violated(format!("{count} messages in flight, in_flight_max is {max}"));
        }
        // One message more is accepted, so that a large one can pass.
        if bytes - largest >= oracle.in_flight_bytes_max {
            let max = oracle.in_flight_bytes_max;
            oracle.violated(format!("{bytes} bytes in flight, in_flight_bytes_max is {max}"));
        }

        // The gate: one message of an aggregate at a time.
        let beside = unanswered.iter().map(|(other, _)| *other).find(|other| {
            *other != row && oracle.rows.get(other).is_some_and(|other| other.aggregate == aggregate)
        });
        if let (true, Some(other)) = (per_aggregate, beside) {
            oracle
                .violated(format!("rows {other} and {row} of aggregate {aggregate} are in flight together"));
        }

        if oracle.sender(process) != Sender::Relay {
            let beside = unanswered.iter().any(|(other, _)| *other != row);
            return oracle.published_by_command(process, row, marked, beside);
        }
        if marked {
            oracle
                .violated(format!("row {row} is marked as replayed, and process {process} replays nothing"));
        }

        oracle.sent_again(connection, row, now, &self.scenario.relay);

        // A process does not repeat what it knows to be settled, nor what a clean end has left.
        if told_here {
            oracle.violated(format!("row {row} is published again on the connection that confirmed it"));
        }
        // A process that has not noticed the loss of its slot does not know of that end.
        let has_slot = oracle.processes.get(&process).is_some_and(|seen| seen.has_slot);
        if has_slot && oracle.sealed.contains(&row) {
            oracle.violated(format!(
                "row {row} is repeated, which a clean end or the slot's record left settled"
            ));
        }
        let seen = oracle.process(process);
        seen.in_flight.insert(row, connection);
        let stream_broke = seen.stream_broke;
        let (done, had_slot) = (seen.done.get(&row) == Some(&epoch), seen.had_slot);
        let late = seen.left.is_some_and(|left| left + notices < now);
        if done {
            oracle.violated(format!("process {process} repeats row {row}, which it knows to be settled"));
        }

        // Only the fence guards a message that was handed over earlier and fits into the socket only now.
        if !at_once {
            return;
        }

        // Another instance may have the slot by now.
        if stream_broke {
            oracle.violated(format!(
                "process {process} publishes row {row} and knows that its stream has broken"
            ));
        }

        // Of several instances only one publishes.
        if !had_slot || late {
            oracle.violated(format!("process {process} publishes row {row} and has no slot"));
        }
        if has_slot && oracle.recovered_by_another(process) {
            oracle.violated(format!("process {process} publishes row {row} while another recovers the slot"));
        }
    }
}
