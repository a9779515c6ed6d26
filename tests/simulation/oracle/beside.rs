//! Promises of the commands that publish beside the relay: `outboxd replay` and `outboxd parked requeue`.

use std::collections::{HashMap, HashSet};

use amqp_publisher::publisher::Outcome;
use outboxd::{
    backfill::replay::Replayed,
    parking::requeue::{Fate, ParkedError},
    position::Position,
    relay::{Fault, OnInvalid, OnUnroutable, RelayOptions},
};

use super::{
    Oracle,
    command::{Command, Replay, Requeue, Sender},
};
use crate::wal::RowId;

impl Oracle {
    pub(crate) fn replay_begins(&mut self, process: u64, options: &RelayOptions) {
        let replay = Replay {
            leaves_out_unroutable: options.on_unroutable != OnUnroutable::Halt,
            leaves_out_refused: options.on_invalid != OnInvalid::Halt,
            rows: Vec::new(),
            confirmed: HashSet::new(),
            left_out: HashSet::new(),
        };
        self.commands.insert(process, Command::Replay(replay));
    }

    pub(crate) fn requeue_begins(&mut self, process: u64, out_of_order: bool) {
        let requeue = Requeue {
            out_of_order,
            listed: Vec::new(),
            in_order: HashSet::new(),
            confirmed: HashSet::new(),
            removed: HashSet::new(),
            told: HashMap::new(),
        };
        self.commands.insert(process, Command::Requeue(requeue));
    }

    pub(crate) fn sender(&self, process: u64) -> Sender {
        match self.commands.get(&process) {
            None => Sender::Relay,
            Some(Command::Replay(_)) => Sender::Replay,
            Some(Command::Requeue(_)) => Sender::Requeue,
        }
    }

    // Seen by the database.

    /// Records the snapshot's rows. No message can be made of an invalid one.
    pub(crate) fn snapshot_taken(&mut self, process: u64, rows: impl Iterator<Item = (RowId, bool)>) {
        if let Some(Command::Replay(replay)) = self.commands.get_mut(&process) {
            for (row, invalid) in rows {
                replay.rows.push(row);
                if invalid {
                    replay.left_out.insert(row);
                }
            }
        }
    }

    /// No other command may work on the parked rows meanwhile.
    pub(crate) fn parked_listed(&mut self, process: u64, rows: Vec<(Position, RowId)>, locked: bool) {
        if !locked {
            self.violated(format!("process {process} sees to parked rows and has not locked them"));
        }
        if let Some(Command::Requeue(requeue)) = self.commands.get_mut(&process) {
            requeue.listed = rows;
        }
    }

    pub(crate) fn looked_for_later_rows(&mut self, process: u64, row: RowId, found: bool) {
        if let Some(Command::Requeue(requeue)) = self.commands.get_mut(&process)
            && !found
        {
            requeue.in_order.insert(row);
        }
    }

    /// A row leaves the table of parked rows only after its confirm.
    pub(crate) fn parked_row_removed(&mut self, process: u64, row: RowId) {
        let Some(Command::Requeue(requeue)) = self.commands.get_mut(&process) else { return };
        requeue.removed.insert(row);
        if !requeue.confirmed.contains(&row) {
            self.violated(format!(
                "process {process} removes parked row {row}, which the broker has not confirmed"
            ));
        }
    }

    // Seen by the broker.

    /// A command hands a message to the broker. `beside`: other messages of the command have no answer yet.
    pub(super) fn published_by_command(&mut self, process: u64, row: RowId, marked: bool, beside: bool) {
        let broken = match self.commands.get(&process) {
            Some(Command::Replay(replay)) => self.replays_wrongly(replay, row, marked),
            Some(Command::Requeue(requeue)) => self.requeues_wrongly(requeue, row, marked, beside),
            None => None,
        };
        if let Some(what) = broken {
            self.violated(format!("process {process} {what}"));
        }
    }

    /// Every message is marked, and rows of an aggregate go in order.
    fn replays_wrongly(&self, replay: &Replay, row: RowId, marked: bool) -> Option<String> {
        if !marked {
            return Some(format!("replays row {row}, and its message is not marked"));
        }
        let aggregate = |row: &RowId| self.rows.get(row).map(|seen| seen.aggregate);
        let Some(at) = replay.rows.iter().position(|one| *one == row) else {
            return Some(format!("replays row {row}, which is not in its snapshot"));
        };
        if !self.per_aggregate {
            return None;
        }
        let earlier = replay.rows[..at].iter().find(|earlier| {
            aggregate(earlier) == aggregate(&row)
                && !replay.confirmed.contains(earlier)
                && !replay.left_out.contains(earlier)
        })?;
        Some(format!("replays row {row} before row {earlier} of its aggregate is settled"))
    }

    /// One row at a time; none before an earlier one of its aggregate, and none after a later one that was not parked.
    fn requeues_wrongly(&self, requeue: &Requeue, row: RowId, marked: bool, beside: bool) -> Option<String> {
        if marked {
            return Some(format!("requeues row {row}, and its message is marked as a replay's"));
        }
        if beside {
            return Some(format!("requeues row {row} while another one is on its way"));
        }
        if let Some(left) = requeue.confirmed.iter().find(|one| !requeue.removed.contains(one)) {
            return Some(format!("requeues row {row}, and row {left} is confirmed and not removed"));
        }
        let aggregate = |row: &RowId| self.rows.get(row).map(|seen| seen.aggregate);
        let Some((position, _)) = requeue.listed.iter().find(|(_, one)| *one == row) else {
            return Some(format!("requeues row {row}, which it did not see parked"));
        };
        if requeue.out_of_order {
            return None;
        }
        if !requeue.in_order.contains(&row) {
            return Some(format!(
                "requeues row {row}, and a later one of its aggregate may have overtaken it"
            ));
        }
        let (_, earlier) = requeue.listed.iter().find(|(other, earlier)| {
            other < position && aggregate(earlier) == aggregate(&row) && !requeue.removed.contains(earlier)
        })?;
        Some(format!("requeues row {row}, and row {earlier} of its aggregate stays parked"))
    }

    /// A command hears an outcome.
    pub(crate) fn command_answered(&mut self, process: u64, row: RowId, outcome: &Outcome) {
        match (self.commands.get_mut(&process), outcome) {
            (Some(Command::Replay(replay)), Outcome::Confirmed) => drop(replay.confirmed.insert(row)),
            (Some(Command::Replay(replay)), Outcome::Returned { .. }) if replay.leaves_out_unroutable => {
                replay.left_out.insert(row);
            }
            (Some(Command::Requeue(requeue)), Outcome::Confirmed) => drop(requeue.confirmed.insert(row)),
            _ => {}
        }
    }

    /// A command hears that a message is refused.
    pub(super) fn command_refused(&mut self, process: u64, row: RowId) {
        if let Some(Command::Replay(replay)) = self.commands.get_mut(&process)
            && replay.leaves_out_refused
        {
            replay.left_out.insert(row);
        }
    }

    // Reported at the end.

    /// A replay reports no more rows than the broker has.
    pub(crate) fn replay_ended(&mut self, process: u64, ended: &Result<Replayed, Fault>) {
        let Some(Command::Replay(Replay { rows, confirmed, left_out, .. })) = self.commands.get(&process)
        else {
            return;
        };
        let Ok(Replayed { rows: told, left_out: told_left_out, complete, .. }) = *ended else { return };
        let settled = rows.iter().take_while(|row| confirmed.contains(row) || left_out.contains(row));
        let first = settled.filter(|row| confirmed.contains(row)).count() as u64;
        let (all, given_up) = (confirmed.len() as u64, (left_out.len()) as u64);
        let in_full = told == all && told_left_out == given_up && all + given_up == rows.len() as u64;
        if told > first || complete && !in_full {
            let count = rows.len();
            self.violated(format!(
                "process {process} says that it replayed {told} rows and left out {told_left_out}, complete: {complete}; of {count} rows \
                 {all} are confirmed, {first} of them without a gap, and {given_up} left out"
            ));
        } else {
            self.replayed += u64::from(complete);
        }
    }

    /// A requeue reports the true fate of each row.
    pub(crate) fn fate_told(&mut self, process: u64, position: Position, fate: &Fate) {
        let Some(Command::Requeue(requeue)) = self.commands.get_mut(&process) else { return };
        let Some(&(_, row)) = requeue.listed.iter().find(|(other, _)| *other == position) else { return };
        let is_requeued = *fate == Fate::Requeued;
        requeue.told.insert(row, is_requeued);
        let is_true = requeue.removed.contains(&row) == is_requeued;
        self.requeued += u64::from(is_requeued);
        if !is_true {
            self.violated(format!(
                "process {process} says of parked row {row}: {fate:?}, and that is not so"
            ));
        }
    }

    /// A successful requeue reports the fate of every parked row. `all`: all rows were to be requeued.
    pub(crate) fn requeue_ended(&mut self, process: u64, all: bool, ended: &Result<(), ParkedError>) {
        let Some(Command::Requeue(requeue)) = self.commands.get(&process) else { return };
        let untold = requeue.listed.iter().find(|(_, row)| !requeue.told.contains_key(row));
        if let (Ok(()), true, Some((_, row))) = (ended, all, untold) {
            self.violated(format!("process {process} has requeued all rows, and says nothing of row {row}"));
        }
    }
}
