//! A walsender: the messages that it sends next, and the answers that it processes.

use outboxd::position::Lsn;
use pg_replication::{ReplicationError, ReplicationEvent};
use tokio::time::Instant;

use super::{
    connection::closed,
    state::{Mode, SessionId},
    streaming::Carries,
};
use crate::{
    link::{Link, Said},
    world::WorldState,
};

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
