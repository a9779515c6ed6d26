//! A walsender: the messages that it sends next, and the answers that it processes.

use std::collections::{BTreeMap, VecDeque};

use outboxd::position::Lsn;
use pg_replication::{ReplicationError, ReplicationEvent};
use tokio::time::Instant;

use super::{Mode, SessionId, connection::closed};
use crate::{
    wal::{self, COLUMNS, OTHER, OUTBOX, RowId, Transaction},
    world::{Link, Said, WorldState},
};

/// A walsender at work.
pub(crate) struct Streaming {
    pub(crate) since: Instant,
    next: usize,
    pub(super) sent: u64,
    queue: VecDeque<(ReplicationEvent, Carries)>,
    relation_known: bool,
    other_known: bool,
    keepalive_told: u64,
    reply_owed: bool,
    /// The client was asked for a sign of life.
    pinged: bool,
    pub(super) heard_at: Instant,
    pub(crate) stalled_until: Instant,
    pub(crate) last_stall: Instant,
    pub(super) statuses: VecDeque<(Instant, u64)>,
    /// Times when the client was handed the end of a transaction, by `commit_lsn`.
    pub(crate) commits: BTreeMap<u64, Instant>,
}

/// Meaning of an event for the oracle.
#[derive(Clone, Copy, Debug)]
enum Carries {
    Nothing,
    Row(RowId),
    Commit { commit_lsn: u64, end_lsn: u64 },
}

impl WorldState {
    pub(super) fn apply_statuses(&mut self, id: SessionId, now: Instant) {
        loop {
            let Some(session) = self.postgres.sessions.get_mut(&id) else { return };
            let Some(streaming) = &mut session.streaming else { return };
            match streaming.statuses.front() {
                Some(&(at, lsn)) if at <= now => {
                    streaming.statuses.pop_front();
                    self.confirm(lsn);
                }
                _ => return,
            }
        }
    }

    /// LogicalConfirmReceivedLocation: the server accepts the client's position, even if it goes back.
    fn confirm(&mut self, lsn: u64) {
        let persist = self.one_in(self.scenario.slot_saved_one_in);
        let Some(slot) = &mut self.postgres.data.slot else { return };
        if lsn == 0 {
            return;
        }
        let before = slot.confirmed_flush;
        slot.confirmed_flush = lsn;
        if persist {
            slot.persisted = lsn;
        }
        if lsn < before {
            self.oracle.violated(format!("the slot was taken back from {before} to {lsn}"));
        }
    }

    /// Returns the walsender's next message.
    pub(super) fn stream(&mut self, id: SessionId) -> Said<Result<ReplicationEvent, ReplicationError>> {
        match self.link(id) {
            Link::Cut => return Said::This(Err(ReplicationError::Stream(closed()))),
            Link::Hung(since) => {
                return self.until_tcp_gives_up(since, ReplicationError::Stream(closed()));
            }
            Link::Up => {}
        }
        let now = self.now();
        let stall = self.one_in(self.scenario.stall_one_in).then(|| self.millis(1..=self.scenario.stall_ms));
        let from_behind = self.rng.u64(0..200);
        let mid_keepalive = self.one_in(20);
        let again_relation = self.one_in(30);
        let empty_ones = self.scenario.empty_transactions;
        let mode = self.postgres.mode;
        let data = &self.postgres.data;
        let Some(session) = self.postgres.sessions.get_mut(&id) else {
            return Said::This(Err(ReplicationError::Stream(closed())));
        };
        let process = session.process;
        let Some(streaming) = &mut session.streaming else {
            return Said::This(Err(ReplicationError::Stream(closed())));
        };
        if let Some(stall) = stall
            && streaming.stalled_until <= now
        {
            streaming.stalled_until = now + stall;
        }
        if streaming.stalled_until > now {
            streaming.last_stall = streaming.stalled_until;
            return Said::NothingBefore(Some(streaming.stalled_until));
        }
        let keepalive = |wal_end: u64, reply_requested| {
            Said::This(Ok(ReplicationEvent::Keepalive { wal_end: Lsn(wal_end), reply_requested }))
        };
        if streaming.reply_owed {
            streaming.reply_owed = false;
            return keepalive(streaming.sent, false);
        }
        if let Some((event, carries)) = streaming.queue.pop_front() {
            match carries {
                Carries::Nothing => {}
                Carries::Row(row) => {
                    self.oracle.handed_out(process, id, row);
                    self.read_over_gap(process, row);
                }
                Carries::Commit { commit_lsn, end_lsn } => {
                    streaming.commits.insert(commit_lsn, now);
                    streaming.sent = end_lsn;
                }
            }
            return Said::This(Ok(event));
        }
        if let Some(transaction) = data.transactions.get(streaming.next).cloned() {
            streaming.next += 1;
            if !transaction.rows.is_empty() || transaction.others || empty_ones {
                streaming.queue_up(&transaction, mid_keepalive, again_relation);
            } else {
                streaming.sent = transaction.end_lsn;
            }
            return self.stream(id);
        }
        // At first, decoding is still on its way from restart_lsn.
        if streaming.keepalive_told == 0 {
            streaming.keepalive_told = 1;
            if from_behind > 100 {
                return keepalive(streaming.sent.saturating_sub(from_behind).max(1), false);
            }
        }
        streaming.sent = data.wal_end;
        if streaming.keepalive_told < streaming.sent {
            streaming.keepalive_told = streaming.sent;
            return keepalive(streaming.sent, mode == Mode::Ending);
        }
        let ping_at = streaming.heard_at + self.scenario.wal_sender_timeout / 2;
        if !streaming.pinged && ping_at <= now {
            streaming.pinged = true;
            return keepalive(streaming.sent, true);
        }
        Said::NothingBefore((!streaming.pinged).then_some(ping_at))
    }

    pub(super) fn status(&mut self, id: SessionId, lsn: u64, reply_requested: bool) {
        let now = self.now();
        let latency = self.millis(0..=self.scenario.status_latency_ms);
        if let Some(session) = self.postgres.sessions.get_mut(&id)
            && let Some(streaming) = &mut session.streaming
            && session.link == Link::Up
        {
            let after = streaming.statuses.back().map_or(now, |(at, _)| *at);
            streaming.statuses.push_back((after.max(now + latency), lsn));
            streaming.reply_owed |= reply_requested;
            streaming.heard_at = now;
            streaming.pinged = false;
        }
    }
}

impl Streaming {
    /// Sends the transactions from number `next` on that commit at `from` or later.
    pub(super) fn new(next: usize, from: u64, now: Instant) -> Self {
        Self {
            since: now,
            next,
            sent: from,
            queue: VecDeque::new(),
            relation_known: false,
            other_known: false,
            keepalive_told: 0,
            reply_owed: false,
            pinged: false,
            heard_at: now,
            stalled_until: now,
            last_stall: now,
            statuses: VecDeque::new(),
            commits: BTreeMap::new(),
        }
    }

    fn queue_up(&mut self, transaction: &Transaction, mid_keepalive: bool, again_relation: bool) {
        let data = |bytes, carries| {
            (ReplicationEvent::WalData { wal_start: Lsn(0), wal_end: Lsn(0), bytes }, carries)
        };
        self.queue.push_back(data(wal::begin(transaction), Carries::Nothing));
        if transaction.others {
            if !self.other_known || again_relation {
                self.queue.push_back(data(wal::relation(OTHER, "orders"), Carries::Nothing));
                self.other_known = true;
            }
            let values = [const { None }; COLUMNS.len()];
            self.queue.push_back(data(wal::insert(OTHER, &values), Carries::Nothing));
            self.queue.push_back(data(wal::truncate(OUTBOX), Carries::Nothing));
        }
        if !transaction.rows.is_empty() && (!self.relation_known || again_relation) {
            self.queue.push_back(data(wal::relation(OUTBOX, "outbox"), Carries::Nothing));
            self.relation_known = true;
        }
        for row in &transaction.rows {
            self.queue.push_back(data(wal::insert(OUTBOX, &row.values()), Carries::Row(row.id)));
            if mid_keepalive {
                let wal_end = Lsn(transaction.end_lsn);
                let keepalive = ReplicationEvent::Keepalive { wal_end, reply_requested: true };
                self.queue.push_back((keepalive, Carries::Nothing));
            }
        }
        let Transaction { commit_lsn, end_lsn, .. } = *transaction;
        self.queue.push_back(data(wal::commit(transaction), Carries::Commit { commit_lsn, end_lsn }));
    }
}
