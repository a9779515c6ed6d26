//! Answers of replication commands.

use std::{io, ops::Range};

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::DataRowBody;

use crate::{Lsn, connection::wire_error::WireError};

/// IDENTIFY_SYSTEM's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Differs between clusters that did not come from one another.
    pub system_id: String,
    /// Grows with every promotion.
    pub timeline: u32,
    /// The end of flushed WAL.
    pub xlogpos: Lsn,
    /// The database we are connected to.
    pub database: Option<String>,
}

impl SystemIdentity {
    /// System identifier and timeline, which tell this server and its history from any other.
    pub fn names(self) -> (String, u32) {
        (self.system_id, self.timeline)
    }
}

/// Facts that are asked for just before streaming begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeforeStream {
    /// The server process at the other end, `active_pid` of the slot that it streams from. Asked of the server, because
    /// what a pooler tells at login is its own.
    pub pid: i32,
    /// Position that the slot has confirmed; `None` when there is no such slot.
    pub confirmed_flush: Option<Lsn>,
}

/// The answer to IDENTIFY_SYSTEM.
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

/// The lines of a history file (`timeline.c`): timeline, where it was left, why; separated by tabs. Others are comments.
pub(super) fn left_timelines(content: &str) -> Vec<(u32, Lsn)> {
    let left = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    content.lines().filter_map(left).collect()
}

/// A row as text.
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
