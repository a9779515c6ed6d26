//! State of the commands that publish beside the relay: `outboxd replay` and `outboxd parked requeue`.

use std::collections::{HashMap, HashSet};

use outboxd::position::Position;

use crate::wal::RowId;

/// Sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    Relay,
    Replay,
    Requeue,
}

pub(super) enum Command {
    Replay(Replay),
    Requeue(Requeue),
}

/// State of an `outboxd replay`.
pub(super) struct Replay {
    pub(super) leaves_out_unroutable: bool,
    pub(super) leaves_out_refused: bool,
    /// Rows of the snapshot, in order.
    pub(super) rows: Vec<RowId>,
    pub(super) confirmed: HashSet<RowId>,
    pub(super) left_out: HashSet<RowId>,
}

/// State of an `outboxd parked requeue`.
pub(super) struct Requeue {
    pub(super) out_of_order: bool,
    /// The parked rows that the command listed, by position.
    pub(super) listed: Vec<(Position, RowId)>,
    /// Rows for which the command looked and found no later row of the aggregate in the table.
    pub(super) in_order: HashSet<RowId>,
    pub(super) confirmed: HashSet<RowId>,
    pub(super) removed: HashSet<RowId>,
    pub(super) told: HashMap<RowId, bool>,
}
