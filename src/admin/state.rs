//! States of a source, and the words that the contract has for them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a source, as the contract names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// Without one of its two connections, for the first time or again.
    Connecting,
    /// Publishing the rows that are older than the slot.
    Backlog,
    /// Relaying what commits.
    Streaming,
    /// Another instance has the slot, or its connection to the broker still lives; this one waits to take over.
    Standby,
    /// The broker accepts no messages (memory or disk alarm), or a queue does not take or confirm some of them.
    Blocked,
    /// Stopped until somebody does what the reason says.
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

    /// The name used in metrics, JSON and logs.
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

    /// Messages flow, or would if a row were committed now. For a standby they flow through the other instance.
    pub const fn is_ready(self) -> bool {
        matches!(self, SourceState::Streaming | SourceState::Standby)
    }

    /// Something is wrong, and the reason given with this state says what.
    pub(super) const fn is_trouble(self) -> bool {
        matches!(self, SourceState::Connecting | SourceState::Blocked | SourceState::Halted)
    }
}

impl fmt::Display for SourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
