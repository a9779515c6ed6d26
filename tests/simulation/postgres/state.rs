//! State of the simulated server: its data directory and its sessions.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{data_directory::DataDirectory, streaming::Streaming};
use crate::link::Link;

/// The server's reaction to a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Up,
    Down,
    /// Fast shutdown: no new connections, and walsenders stay until all WAL is confirmed.
    Ending,
}

pub(crate) struct Server {
    pub(crate) mode: Mode,
    pub(crate) data: DataDirectory,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(super) last_session: SessionId,
    /// Sessions that stream from the slot and that hold the temporary one.
    pub(crate) active: Option<SessionId>,
    pub(crate) backlog: Option<SessionId>,
    /// Processes that have checked the server and the end of its WAL since it was set back to an older state.
    pub(crate) judged: Vec<u64>,
    /// Time when connections last fell silent.
    pub(crate) hung_at: Option<Instant>,
    /// The table of parked rows accepts nothing.
    pub(crate) parks_nothing: bool,
    /// Number of batches that the table refused for that reason.
    pub(crate) parks_refused: u64,
    /// Session that has locked the parked rows.
    pub(super) parked_lock: Option<SessionId>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            mode: Mode::Up,
            data: DataDirectory::default(),
            sessions: BTreeMap::new(),
            last_session: 0,
            active: None,
            backlog: None,
            judged: Vec::new(),
            hung_at: None,
            parks_nothing: false,
            parks_refused: 0,
            parked_lock: None,
        }
    }
}

pub(crate) type SessionId = u64;

/// A connection of any kind.
pub(crate) struct Session {
    pub(crate) process: u64,
    pub(crate) link: Link,
    /// Time when the server notices that the client is gone.
    pub(super) closes_at: Option<Instant>,
    pub(crate) streaming: Option<Streaming>,
}

impl Session {
    /// Returns whether the client exists and can be reached.
    pub(crate) fn has_client(&self) -> bool {
        self.link == Link::Up && self.closes_at.is_none()
    }
}
