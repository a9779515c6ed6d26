//! State that one attempt leaves to the next: everything that outlives a lost connection.

use std::collections::BTreeSet;

use crate::{
    admin::Side,
    ledger::{ConfirmedLsn, Settled},
    position::Position,
    relay::{
        Ended,
        delivery::Left,
        mishap::{Overdue, Stalled},
    },
    slot::{
        continuity::{LastSeen, SlotHistory},
        record::SlotRecord,
    },
};

/// State that one attempt leaves to the next.
#[derive(Debug)]
pub(super) struct Carryover {
    /// The server that `settled` is about: system identifier and timeline. If either changes, `settled` is void and the slot alone
    /// decides.
    pub(super) server: Option<(String, u32)>,
    pub(super) settled: Settled,
    /// Name under which this process holds slots.
    pub(super) holder: String,
    /// The slot when it was last seen. If it is gone or another one later, rows may be lost, and no new slot is created silently.
    pub(super) slot: Option<LastSeen>,
    /// The last attempt had the slot, or its backlog.
    pub(super) was_connected: bool,
    /// The side whose connection was lost and not made again yet.
    pub(super) lost: Option<Side>,
    /// The last attempt with the slot left messages that the broker may have and has not confirmed. The next holder of the slot
    /// publishes them again; nobody has had the slot since.
    pub(super) unconfirmed: bool,
    /// The last attempt saw that the server will invalidate the unused slot, and did not use it.
    pub(super) slot_wants_use: bool,
    /// The doubt about `outbox.unpublished` was logged.
    pub(super) doubts_condition: bool,
    /// Messages whose confirms did not arrive in time.
    pub(super) stalled: Option<Stalled>,
}

impl Carryover {
    pub(super) fn new() -> Self {
        Self {
            server: None,
            settled: Settled::default(),
            holder: format!("{:032x}", fastrand::u128(..)),
            slot: None,
            was_connected: false,
            lost: None,
            unconfirmed: false,
            slot_wants_use: false,
            doubts_condition: false,
            stalled: None,
        }
    }

    /// Records messages that the broker did not confirm in time. `None`: rows of a backlog.
    pub(super) fn stalls(&mut self, positions: Option<BTreeSet<Position>>, what: Overdue) {
        self.stalled = Some(Stalled::again(self.stalled.take(), positions, what));
    }

    /// Keeps the progress of an attempt.
    pub(super) fn keep(&mut self, Left { settled, unconfirmed, .. }: Left) {
        let progress = settled.progress;
        self.stalled = self.stalled.take().and_then(|stalled| stalled.without(&settled));
        self.settled = settled;
        self.unconfirmed = unconfirmed;
        if let Some(slot) = &mut self.slot {
            slot.confirmed = progress.confirmed.map(ConfirmedLsn::lsn).max(slot.confirmed);
        }
    }

    /// Hands unconfirmed messages to an instance that has had the slot since, according to its record. That instance started at the
    /// slot's confirmed position.
    pub(super) fn leave_to_successor(&mut self, record: Option<&SlotRecord>) {
        let has_successor = record.is_some_and(|record| {
            record.holder.as_ref() != Some(&self.holder) && record.gap.is_none() && !record.is_torn_down()
        });
        self.unconfirmed &= !has_successor;
    }

    /// Result of a shutdown while there is no connection.
    pub(super) fn ended(&self) -> Ended {
        if self.unconfirmed { Ended::Undrained } else { Ended::Drained }
    }

    /// Compares the server with the earlier one, and the slot's holder with this process. Whether the slot may be used was decided
    /// before.
    pub(super) fn meet(&mut self, history: &SlotHistory, source: &str) {
        let end = history.server.xlogpos;
        let server = history.server.clone().names();
        if let Some(before) = &self.server
            && *before != server
        {
            tracing::warn!(
                source,
                "PostgreSQL is another server, or was promoted (system identifier {} and timeline {} before, {} and {} now): \
                 outboxd continues at the position of its slot, and may publish some messages again",
                before.0,
                before.1,
                server.0,
                server.1
            );
            self.settled = Settled::default();
        }
        // A copy of the data directory was restored: the same names, another history.
        if let Some(beyond) = self.settled.reaches().filter(|settled| *settled > end) {
            tracing::warn!(
                source,
                "PostgreSQL's WAL ends at {end}, before {beyond}, which is confirmed: the server was set back to an older state. outboxd \
                 continues at the position of its slot; consumers may have messages whose rows the server has lost"
            );
            self.settled = Settled::default();
        }
        if history.slot.is_some() && self.slot.is_none() {
            let (holder, (system_id, timeline)) = (self.holder.clone(), server.clone());
            let version = history.record.as_ref().map_or(0, |record| record.version);
            let published_by = history.publishing.by();
            self.slot =
                Some(LastSeen { holder, system_id, timeline, confirmed: None, published_by, version });
        }
        self.server = Some(server);
        self.leave_to_successor(history.record.as_ref());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;
    use crate::{
        ledger::{Ledger, Limits, Ordering},
        message::{AggregateKey, Message},
        position::{Lsn, Position},
        slot::publication::{Publishing, Unpublished},
    };
    use pg_replication::SystemIdentity;

    fn server(system_id: &str, timeline: u32, xlogpos: u64) -> SlotHistory {
        let system_id = system_id.to_owned();
        let server = SystemIdentity { system_id, timeline, xlogpos: Lsn(xlogpos), database: None };
        let publishing = Publishing::Not(Unpublished::Missing);
        SlotHistory {
            server,
            timelines: Vec::new(),
            record: None,
            slot: None,
            publishing,
            published_before: None,
        }
    }

    /// State of a process that has confirmed up to 100 on timeline 1 of server A.
    fn carryover() -> Carryover {
        let limits = Limits { messages: 1, bytes: 1 };
        let mut ledger = Ledger::new(Ordering::PerAggregate, limits, Settled::default());
        ledger.advance_watermark(Lsn(100));
        let server = Some(("A".to_owned(), 1));
        Carryover { server, settled: ledger.settled(), ..Carryover::new() }
    }

    #[test]
    fn progress_holds_on_the_same_server_and_not_on_another_nor_after_a_promotion() {
        for (server, holds) in
            [(server("A", 1, 100), true), (server("B", 1, 900), false), (server("A", 2, 900), false)]
        {
            let mut carryover = carryover();
            carryover.meet(&server, "orders");
            assert_eq!(carryover.settled.progress.confirmed.is_some(), holds, "{server:?}");
        }
    }

    #[test]
    fn what_is_unconfirmed_stays_ours_until_another_has_had_the_slot() {
        let (ours, another) = (carryover().holder, Some("another".to_owned()));
        let record = |holder, gap: Option<&str>, flush| SlotRecord {
            system_id: "A".to_owned(),
            timeline: 1,
            confirmed_flush: Lsn(flush),
            confirmed_until: None,
            holder,
            gap: gap.map(str::to_owned),
            published_by: None,
            unproven: None,
            version: 1,
            as_written: true,
        };
        for (what, record, stays) in [
            ("no record", None, true),
            ("its own", Some(record(Some(ours.clone()), None, 100)), true),
            ("another's", Some(record(another, None, 100)), false),
            ("released by another", Some(record(None, None, 100)), false),
            ("a gap", Some(record(None, Some("is gone"), 100)), true),
            ("torn down", Some(record(None, None, 0)), true),
        ] {
            let mut carryover = Carryover { holder: ours.clone(), unconfirmed: true, ..carryover() };
            carryover.leave_to_successor(record.as_ref());
            assert_eq!(carryover.ended() == Ended::Undrained, stays, "{what}");
        }
    }

    #[test]
    fn a_server_set_back_to_an_older_copy_of_itself_does_not_lose_what_it_writes_next() {
        let mut carryover = carryover();
        carryover.meet(&server("A", 1, 99), "orders");
        assert_eq!(carryover.settled, Settled::default());
    }

    /// Rows written next get positions that were settled before, in a history that is gone.
    #[test]
    fn a_server_set_back_to_before_a_half_confirmed_transaction_does_not_lose_what_it_writes_next() {
        let limits = Limits { messages: 10, bytes: 1 << 20 };
        let mut ledger = Ledger::new(Ordering::PerAggregate, limits, carryover().settled);
        for index in 0..2 {
            ledger.push(Message::empty(Position { commit_lsn: Lsn(200), index }, AggregateKey(1)));
        }
        let (tag, _) = ledger.next_due(std::time::Instant::now()).expect("one may go");
        ledger.settle(tag);
        let mut carryover = Carryover { settled: ledger.settled(), ..carryover() };
        carryover.meet(&server("A", 1, 300), "orders");
        assert!(carryover.settled.progress.position.is_some());
        carryover.meet(&server("A", 1, 150), "orders");
        assert_eq!(carryover.settled, Settled::default());
    }
}
