//! The content of a ledger entry, and the step that its caller must take next.

use std::sync::Arc;

use crate::{
    message::{AggregateKey, KeptRow, Message, ParkedRow, Timestamp},
    position::Position,
};

/// Content of a ledger entry.
#[derive(Debug)]
pub(super) enum Item {
    /// A message to publish. The row is kept if policy may park it.
    Message { message: Message, kept: Option<Arc<KeptRow>> },
    /// A row to park, because no message can be made of it.
    Invalid(Arc<ParkedRow>),
    /// A settled row. Only its position still matters.
    Settled { position: Position, committed_at: Timestamp },
}

impl Item {
    pub(super) fn position(&self) -> Position {
        match self {
            Item::Message { message, .. } => message.position,
            Item::Invalid(row) => row.kept.row().position,
            Item::Settled { position, .. } => *position,
        }
    }

    pub(super) fn committed_at(&self) -> Timestamp {
        match self {
            Item::Message { message, .. } => message.committed_at,
            Item::Invalid(row) => row.kept.row().committed_at,
            Item::Settled { committed_at, .. } => *committed_at,
        }
    }

    /// Returns the aggregate. `None` for a settled row, and for a row that does not name its aggregate.
    pub(super) fn aggregate(&self) -> Option<AggregateKey> {
        match self {
            Item::Message { message, .. } => Some(message.aggregate),
            Item::Invalid(row) => row.kept.aggregate(),
            Item::Settled { .. } => None,
        }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Item::Message { message, kept } => message.size() + kept.as_ref().map_or(0, |row| row.size()),
            Item::Invalid(row) => row.kept.size(),
            Item::Settled { .. } => 0,
        }
    }
}

/// Step that the caller must take with an entry.
#[derive(Clone, Debug)]
pub enum Due {
    /// Publish the message, and report the broker's answer.
    Publish(Message),
    /// Park the row, and report when it is parked.
    Park(Arc<ParkedRow>),
}
