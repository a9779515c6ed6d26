//! State of a walsender that streams: events to send, and status updates on their way.

use std::collections::{BTreeMap, VecDeque};

use outboxd::position::Lsn;
use pg_replication::ReplicationEvent;
use tokio::time::Instant;

use crate::wal::{self, COLUMNS, OTHER, OUTBOX, RowId, Transaction};

/// A walsender at work.
pub(crate) struct Streaming {
    pub(crate) since: Instant,
    pub(super) next: usize,
    pub(super) sent: u64,
    pub(super) queue: VecDeque<(ReplicationEvent, Carries)>,
    pub(super) relation_known: bool,
    pub(super) other_known: bool,
    pub(super) keepalive_told: u64,
    pub(super) reply_owed: bool,
    /// The client was asked for a sign of life.
    pub(super) pinged: bool,
    pub(super) heard_at: Instant,
    pub(crate) stalled_until: Instant,
    pub(crate) last_stall: Instant,
    pub(super) statuses: VecDeque<(Instant, u64)>,
    /// Times when the client was handed the end of a transaction, by `commit_lsn`.
    pub(crate) commits: BTreeMap<u64, Instant>,
}

/// Meaning of an event for the oracle.
#[derive(Clone, Copy, Debug)]
pub(super) enum Carries {
    Nothing,
    Row(RowId),
    Commit { commit_lsn: u64, end_lsn: u64 },
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

    pub(super) fn queue_up(&mut self, transaction: &Transaction, mid_keepalive: bool, again_relation: bool) {
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
