//! A simulated PostgreSQL server, as a logical replication client sees it. Hostile where the protocol allows it: it sends rows
//! again, sends keepalives from behind the slot, and forgets confirmed positions in a crash.

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
    last_session: SessionId,
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
