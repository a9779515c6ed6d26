//! A gap: the event that made the slot miss rows, and the position after which rows may be missing.

use std::fmt;

use crate::{
    message::Timestamp,
    position::Lsn,
    slot::{facts::SlotFacts, invalidation::Invalidation, publication::Unpublished},
};

/// A range of WAL whose rows may be missing: from the last confirmed position to the start of a new slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Cause.
    pub cause: Cause,
    /// Last position known to be confirmed. Rows committed after it may be missing.
    pub confirmed: Option<Lsn>,
    /// Commit time of the last message known to be confirmed.
    pub until: Option<Timestamp>,
}

/// Mark in a recorded gap that the slot was a failover slot. `recover` reads it to create a failover slot again, even when a second
/// run finds no slot any more.
const WAS_FAILOVER: &str = "; it was a failover slot";

/// The text of a gap for the record.
pub(crate) fn recorded(cause: &Cause, slot: Option<&SlotFacts>) -> String {
    let words = cause.to_string();
    let marked = slot.is_some_and(|slot| slot.failover) && !was_failover(&words);
    if marked { words + WAS_FAILOVER } else { words }
}

/// Tells whether a recorded gap belongs to a failover slot.
pub(crate) fn was_failover(recorded: &str) -> bool {
    recorded.contains(WAS_FAILOVER)
}

/// The reason why a slot has a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// PostgreSQL has invalidated the slot.
    Lost {
        /// The server's reason.
        why: Invalidation,
    },
    /// The slot does not exist any more, on the same server.
    Gone,
    /// The slot does not exist on a server that was promoted since.
    LeftBehind {
        /// Timeline of the slot.
        had: u32,
        /// Timeline of the server now.
        has: u32,
    },
    /// The database is on another server than the slot was.
    OtherSystem {
        /// System identifier of the slot's server.
        had: String,
        /// System identifier of this server.
        has: String,
    },
    /// The server is in an older state than outboxd has seen before.
    SetBack {
        /// End of the server's WAL.
        end: Lsn,
    },
    /// Another slot has the name.
    MadeAnew {
        /// Confirmed position of that slot.
        at: Option<Lsn>,
    },
    /// The publication does not publish the table's rows.
    Unpublished(Unpublished),
    /// The publication did not publish the table's rows for a time in which outboxd did not look at it.
    PublishedAnew,
    /// The record of the slot is gone.
    Unrecorded,
    /// `outboxd teardown` removed the slot while this process was running.
    TornDown,
    /// A gap found earlier, in the text of the record.
    Recorded(String),
}

impl Cause {
    /// Tells whether the slot itself is intact and the publication made it skip rows.
    pub(crate) fn is_of_the_publication(&self) -> bool {
        matches!(self, Cause::Unpublished(_) | Cause::PublishedAnew)
    }
}

/// A sentence that follows the slot's name: the cause, and the position after which rows may be missing.
impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; rows committed after ", self.cause)?;
        match self.confirmed {
            Some(confirmed) => write!(f, "{confirmed}")?,
            None => f.write_str("an unknown position")?,
        }
        if let Some(until) = self.until {
            write!(f, " (the last confirmed message was committed at {until})")?;
        }
        f.write_str(" may not have been published")
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Lost { why } => write!(f, "is lost: {why} ({})", why.prevention()),
            Cause::Gone => f.write_str("is gone: it was dropped"),
            Cause::LeftBehind { had, has } => write!(
                f,
                "is gone: the server went from timeline {had} to {has} (a promotion, or a restored backup), and the slot is not \
                 on the new timeline"
            ),
            Cause::OtherSystem { had, has } => write!(
                f,
                "was on another server (system identifier {had}, now {has}): the database was moved by a dump or an upgrade"
            ),
            Cause::SetBack { end } => write!(
                f,
                "is on a server that was set back to an older state, such as a restored snapshot; its WAL ends at {end}"
            ),
            Cause::MadeAnew { at: Some(at) } => write!(
                f,
                "was dropped and created again, or moved: it stands at {at}, after every position that outboxd has confirmed"
            ),
            Cause::MadeAnew { at: None } => f.write_str("was dropped and created again"),
            Cause::Unpublished(why) => write!(f, "has skipped the latest rows: the publication {why}"),
            Cause::PublishedAnew => f.write_str(
                "may have skipped rows: the table was removed from the publication and added again, or the publication was \
                 dropped and created again, or created after the rows",
            ),
            Cause::Unrecorded => f.write_str(
                "has no record in outboxd_state any more: the database was set back to an older state, or the record was \
                 deleted while outboxd was running",
            ),
            Cause::TornDown => f.write_str(
                "was removed by `outboxd teardown` while this process was running; after a restart outboxd begins with a new slot",
            ),
            Cause::Recorded(words) => f.write_str(words),
        }
    }
}
