//! Answers of replication commands.

use std::{io, ops::Range};

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::DataRowBody;

use crate::{Lsn, connection::wire_error::WireError};

/// Answer to IDENTIFY_SYSTEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// System identifier. Clusters share it only if one was copied from the other.
    pub system_id: String,
    /// Timeline. Every promotion begins a new one.
    pub timeline: u32,
    /// End of flushed WAL.
    pub xlogpos: Lsn,
    /// The connection's database.
    pub database: Option<String>,
}

impl SystemIdentity {
    /// Returns system identifier and timeline, which together identify a history of WAL.
    pub fn names(self) -> (String, u32) {
        (self.system_id, self.timeline)
    }
}

/// State of connection and slot just before streaming begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeforeStream {
    /// Process id of the session on the server: `active_pid` of the slot that it streams. Queried, because a pooler
    /// reports its own at login.
    pub pid: i32,
    /// `confirmed_flush_lsn` of the slot; `None` if the slot does not exist.
    pub confirmed_flush: Option<Lsn>,
}

/// Parses the answer to IDENTIFY_SYSTEM.
pub(super) fn identity(rows: &[Vec<Option<String>>]) -> Option<SystemIdentity> {
    let [row] = rows else { return None };
    let [Some(system_id), Some(timeline), Some(xlogpos), database] = row.as_slice() else { return None };
    Some(SystemIdentity {
        system_id: system_id.clone(),
        timeline: timeline.parse().ok()?,
        xlogpos: xlogpos.parse().ok()?,
        database: database.clone(),
    })
}

/// Parses a timeline history file (`timeline.c`): timeline, switch position and reason, separated by tabs. Other
/// lines are comments.
pub(super) fn left_timelines(content: &str) -> Vec<(u32, Lsn)> {
    let left = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    content.lines().filter_map(left).collect()
}

/// Returns a row's values as text.
pub(super) fn text_row(body: &DataRowBody) -> Result<Vec<Option<String>>, WireError> {
    let value = |range: Option<Range<usize>>| match range {
        None => Ok(None),
        Some(range) => match str::from_utf8(&body.buffer()[range]) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(io::Error::other("a value that is not UTF-8")),
        },
    };
    body.ranges()
        .map(value)
        .collect()
        .map_err(|error: io::Error| WireError::protocol(format!("a row cannot be read: {error}")))
}
