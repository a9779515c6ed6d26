//! A gap: what happened to a slot or to what it is fed by, and from where on rows may be missing.

use std::fmt;

use crate::{
    message::Timestamp,
    position::Lsn,
    slot::{facts::SlotFacts, invalidation::Invalidation, publication::Unpublished},
};

/// Rows may be missing: between what was confirmed and what a slot from now on would send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// What happened.
    pub cause: Cause,
    /// The last position that is known to be confirmed: rows that committed after it may be missing.
    pub confirmed: Option<Lsn>,
    /// When the last message that is known to be confirmed was committed.
    pub until: Option<Timestamp>,
}

/// Words of a recorded gap that tell that the slot was a failover slot: `recover` makes another one, also when it is cut short and
/// begins anew without a slot to look at.
const WAS_FAILOVER: &str = "; it was a failover slot";

/// The words of a gap, for the record.
pub(crate) fn recorded(cause: &Cause, slot: Option<&SlotFacts>) -> String {
    let words = cause.to_string();
    let marked = slot.is_some_and(|slot| slot.failover) && !was_failover(&words);
    if marked { words + WAS_FAILOVER } else { words }
}

/// Tells whether the words of a recorded gap are of a failover slot.
pub(crate) fn was_failover(recorded: &str) -> bool {
    recorded.contains(WAS_FAILOVER)
}

/// The way in which a slot came to be of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The server has invalidated it.
    Lost {
        /// Why.
        why: Invalidation,
    },
    /// It is not there, on the server where it was.
    Gone,
    /// It is not there, on a server that was promoted since.
    LeftBehind {
        /// The timeline that had it.
        had: u32,
        /// The server's timeline.
        has: u32,
    },
    /// The server is not the one that had it.
    OtherSystem {
        /// The system identifier that had it.
        had: String,
        /// The server's.
        has: String,
    },
    /// The server is in an older state than one that was seen before.
    SetBack {
        /// Where its WAL ends.
        end: Lsn,
    },
    /// There is one of that name, and it is another.
    MadeAnew {
        /// Where it stands.
        at: Option<Lsn>,
    },
    /// The publication does not feed it the table's rows.
    Unpublished(Unpublished),
    /// The publication fed it no rows for a time, between two looks or while nobody looked.
    PublishedAnew,
    /// Nothing is written down of it any more.
    Unrecorded,
    /// It was torn down on purpose, and this process was left.
    TornDown,
    /// What was found before, in the words of then.
    Recorded(String),
}

impl Cause {
    /// The slot is what it was, and rows were passed over.
    pub(crate) fn is_of_the_publication(&self) -> bool {
        matches!(self, Cause::Unpublished(_) | Cause::PublishedAnew)
    }
}

/// A sentence without the slot's name, which goes before: what happened, and from where on rows may be missing.
impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; rows committed after ", self.cause)?;
        match self.confirmed {
            Some(confirmed) => write!(f, "{confirmed}")?,
            None => f.write_str("an unknown position")?,
        }
        if let Some(until) = self.until {
            write!(f, " (a message committed at {until} is confirmed)")?;
        }
        f.write_str(" may not have been published")
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Lost { why } => write!(f, "is lost: {why} ({})", why.prevention()),
            Cause::Gone => f.write_str("is gone: somebody dropped it"),
            Cause::LeftBehind { had, has } => write!(
                f,
                "is gone: the server went from timeline {had} to {has}, promoted or restored from a backup, and the slot \
                 did not come along"
            ),
            Cause::OtherSystem { had, has } => write!(
                f,
                "was on another server: the database came here by a dump or an upgrade (system identifier {had} then, {has} now)"
            ),
            Cause::SetBack { end } => write!(
                f,
                "is on a server that was set back to an older state, where WAL ends at {end} and more had been confirmed"
            ),
            Cause::MadeAnew { at: Some(at) } => write!(
                f,
                "is not the one that was there: it stands at {at}, where the other never was, so somebody made it anew or moved it"
            ),
            Cause::Unpublished(why) => write!(f, "has passed over what was written last: the publication {why}"),
            Cause::PublishedAnew => f.write_str(
                "may have passed rows over: the table was taken out of the publication and put back, or the publication is not \
                 the one that was there, or is younger than the rows",
            ),
            Cause::Unrecorded => f.write_str(
                "has no record any more in outboxd_state: the database was set back to an older state, or somebody removed \
                 the record while outboxd ran",
            ),
            Cause::TornDown => f.write_str(
                "was removed by `outboxd teardown` while this process ran, which begins afresh when it is started again",
            ),
            Cause::Recorded(words) => f.write_str(words),
            Cause::MadeAnew { at: None } => f.write_str("is not the one that was there"),
        }
    }
}
