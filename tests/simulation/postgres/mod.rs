//! A PostgreSQL server, as far as a logical replication client can tell. Hostile where the protocol allows it: it sends what
//! was sent before, says keepalives from behind the slot, and forgets in a crash what a slot has confirmed since it was made, or
//! since a moment of the server's choice.

#![allow(clippy::result_large_err)] // They are the product's, which boxes them one level higher.

mod backlog;
mod connection;
mod data_directory;
mod database;
mod facts;
mod replication;
mod session;
mod slot;
mod sql;
mod stream;
mod walsender;

use std::collections::BTreeMap;

use tokio::time::Instant;

pub(crate) use data_directory::{DataDirectory, Slot};
pub(crate) use database::SimulatedDatabase;
pub(crate) use session::{Session, SessionId};

/// How a server meets who connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Up,
    Down,
    /// Fast shutdown: no new connections, and walsenders stay until all is confirmed.
    Ending,
}

pub(crate) struct Server {
    pub(crate) mode: Mode,
    pub(crate) data: DataDirectory,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    last_session: SessionId,
    /// Who streams from the slot, and who holds the temporary one.
    pub(crate) active: Option<SessionId>,
    pub(crate) backlog: Option<SessionId>,
    /// Processes that have looked at the server, and at the end of its WAL, since it was put back to an older state.
    pub(crate) judged: Vec<u64>,
    /// When connections last fell silent.
    pub(crate) hung_at: Option<Instant>,
    /// The table of parked rows takes nothing.
    pub(crate) parks_nothing: bool,
    /// How often a batch of rows was not parked for it.
    pub(crate) parks_refused: u64,
    /// Who has locked the parked rows.
    parked_lock: Option<SessionId>,
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
