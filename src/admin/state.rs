//! States of a source, and their names in metrics, JSON and logs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// Connecting to PostgreSQL or RabbitMQ, for the first time or again.
    Connecting,
    /// Publishing the rows that are older than the slot.
    Backlog,
    /// Publishing rows as they commit.
    Streaming,
    /// Waiting to take over: another instance has the slot, or still has its connection to the broker.
    Standby,
    /// Waiting for the broker: it accepts no messages (memory or disk alarm), or a queue nacks or does not confirm some of them.
    Blocked,
    /// Stopped until an operator removes the cause that the reason names.
    Halted,
}

impl SourceState {
    /// Every state, in the order of a source's life.
    pub const ALL: [SourceState; 6] = [
        SourceState::Connecting,
        SourceState::Backlog,
        SourceState::Streaming,
        SourceState::Standby,
        SourceState::Blocked,
        SourceState::Halted,
    ];

    /// The state's name in metrics, JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            SourceState::Connecting => "connecting",
            SourceState::Backlog => "backlog",
            SourceState::Streaming => "streaming",
            SourceState::Standby => "standby",
            SourceState::Blocked => "blocked",
            SourceState::Halted => "halted",
        }
    }

    /// Tells whether messages flow, or would flow for a row committed now. With a standby they flow through the other instance.
    pub const fn is_ready(self) -> bool {
        matches!(self, SourceState::Streaming | SourceState::Standby)
    }

    /// Tells whether the state's reason names a problem.
    pub(super) const fn is_trouble(self) -> bool {
        matches!(self, SourceState::Connecting | SourceState::Blocked | SourceState::Halted)
    }
}

impl fmt::Display for SourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
