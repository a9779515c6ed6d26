//! What an entry of the ledger is about, and what its caller must do when its turn has come.

use std::sync::Arc;

use crate::{
    message::{AggregateKey, KeptRow, Message, ParkedRow, Timestamp},
    position::Position,
};

/// What a row takes its place in the ledger for.
#[derive(Debug)]
pub(super) enum Item {
    /// To be published. The row is there when policy may put it aside.
    Message { message: Message, kept: Option<Arc<KeptRow>> },
    /// To be parked, as no message can be made of it.
    Invalid(Arc<ParkedRow>),
    /// Nothing any more. Only the place counts.
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

    /// `None`: a row that does not name its aggregate, or waits for nothing.
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

/// What the caller must do with an entry whose turn it is.
#[derive(Clone, Debug)]
pub enum Due {
    /// Publish it, and tell the broker's answer.
    Publish(Message),
    /// Put it aside, and say when that is done.
    Park(Arc<ParkedRow>),
}
