//! What can end an attempt, and the one verdict on it: try again, or halt.

use std::{error::Error, fmt::Write as _, time::Duration};

use super::mishap::Overdue;
use crate::{
    admin::Side,
    backfill::{backlog::BacklogError, snapshot::SnapshotError},
    message::{InvalidReason, InvalidRow, MappingError},
    postgres::{SourceDatabase, statement::CatalogError, statement_remedy},
    preflight::{self, Check, facts::server::ServerFacts},
    rabbitmq::cures,
    slot::{continuity::Gap, history::SlotHistoryError},
};
use amqp_publisher::BrokerError;
use diagnostics::remedy::{Mender, Remedy};
use pg_replication::{ConnectError, ReplicationError, pgoutput::DecodeError};

/// Why a source's attempt ended.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The replication connection.
    #[error(transparent)]
    Replication(Box<ReplicationError>),
    /// The SQL connection could not be made.
    #[error(transparent)]
    Connect(Box<ConnectError>),
    /// A look into the catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The backlog could not be read.
    #[error(transparent)]
    Backlog(Box<BacklogError>),
    /// The database is not as it must be.
    #[error("{}", failures(.0))]
    Preflight(Vec<Check>),
    /// The broker's side.
    #[error("{}", cures::explain(.0))]
    Broker(Box<BrokerError>),
    /// PostgreSQL sent what is not pgoutput.
    #[error("PostgreSQL sent what outboxd cannot read; please report it")]
    Decode(#[from] DecodeError),
    /// PostgreSQL sent messages in an order that cannot be.
    #[error("unexpected from PostgreSQL: {0}; please report it")]
    Protocol(&'static str),
    /// The broker owes an answer for too long.
    #[error("{what} ({} ms, rabbitmq.confirm_timeout_ms and longer each time)", after.as_millis())]
    ConfirmTimeout {
        /// The limit.
        after: Duration,
        /// Which message, and what may be the matter.
        what: Overdue,
    },
    /// PostgreSQL does not answer although it was asked to.
    #[error("PostgreSQL has been silent for {} ms: it hangs, or the link is cut", for_at_least.as_millis())]
    ServerSilent {
        /// How long.
        for_at_least: Duration,
    },
    /// PostgreSQL is shutting down, which waits for whoever streams to confirm everything.
    #[error("PostgreSQL is shutting down")]
    ServerEnding,
    /// A standby's new connection leads somewhere else than its first.
    #[error("PostgreSQL is another server than a moment ago, or was promoted: looking at it anew")]
    ServerChanged,
    /// Without a slot there is no gap, but one that is made now would pass rows over.
    #[error("the publication was dropped or altered a moment ago: looking at it anew before a slot is made")]
    PublicationGone,
    /// We hung, or were frozen, just after we had got the slot.
    #[error("slot \"{slot}\" was ours and has been given to another instance meanwhile: asking for it anew")]
    SlotTaken {
        /// Its name.
        slot: String,
    },
    /// The servers answer, but not to everything that has to be done before streaming.
    #[error(
        "connecting and looking around took longer than {} s: see what PostgreSQL is waiting for (pg_stat_activity, \
         application_name outboxd...)",
        after.as_secs()
    )]
    ConnectTimeout {
        /// The limit.
        after: Duration,
    },
    /// Rows of the table could not be read.
    #[error(transparent)]
    Snapshot(Box<SnapshotError>),
    /// The slot is lost, gone, not the one that was there before, or has passed rows over.
    #[error(
        "slot \"{slot}\" {gap}. No new slot is made silently: `outboxd recover --source {source_name}` makes one and publishes \
         the rows that the table still has"
    )]
    Gap {
        /// Its name.
        slot: String,
        /// The source's name.
        source_name: String,
        /// What happened, and from where on rows may be missing.
        gap: Box<Gap>,
    },
    /// The table does not have what the configuration asks for.
    #[error(transparent)]
    Mapping(MappingError),
    /// A row that cannot become a message.
    #[error("{0}{steps}", steps = way_out(&.0.reason))]
    InvalidRow(InvalidRow),
}

/// What to do about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Time or somebody else may mend it: again, with backoff.
    Again,
    /// Only a person can mend it: say so as `halted`, and try again with backoff, for nobody tells outboxd when it is mended.
    HaltUntilMended,
    /// Going on would lose or repeat something, or come to the same: stop until a restart.
    Halt,
    /// The same, but `outboxd recover` can mend it from outside: stop, and look now and then.
    HaltUntilRecovered,
}

impl Fault {
    /// The slot of a source cannot be gone on with.
    pub(crate) fn gap(slot: &str, source_name: &str, gap: Gap) -> Self {
        Fault::Gap { slot: slot.to_owned(), source_name: source_name.to_owned(), gap: Box::new(gap) }
    }

    /// A server that took an SQL connection gave no replication connection.
    pub(crate) fn no_replication(
        database: &SourceDatabase,
        server: &ServerFacts,
        error: ReplicationError,
    ) -> Self {
        match error {
            ReplicationError::Connect(error) => {
                ReplicationError::Connect(error.hosted(&database.endpoint, server.hosting)).into()
            }
            error => error.into(),
        }
    }

    /// Retry or stop: the one place that decides.
    pub fn verdict(&self) -> Verdict {
        match self {
            // The row's fault, as with `InvalidRow`.
            Fault::Broker(error) if matches!(**error, BrokerError::Unsendable { .. }) => Verdict::Halt,
            Fault::Gap { .. } => Verdict::HaltUntilRecovered,
            Fault::Mapping(_) | Fault::InvalidRow(_) => Verdict::Halt,
            _ => match self.mender() {
                Mender::Time => Verdict::Again,
                Mender::Person => Verdict::HaltUntilMended,
            },
        }
    }

    /// Who mends it, while it is tried again.
    fn mender(&self) -> Mender {
        match self {
            Fault::Preflight(checks) => preflight::mender(checks),
            Fault::Broker(error) => error.mender(),
            _ => self.remedy().map_or(Mender::Time, |remedy| remedy.mender),
        }
    }

    /// The cure that its text does not have.
    fn remedy(&self) -> Option<Remedy> {
        match self {
            Fault::Replication(error) => statement_remedy::of_replication(error),
            Fault::Connect(error) => Some((*error.remedy).clone()),
            Fault::Catalog(error) => error.remedy(),
            Fault::Backlog(error) => error.remedy(),
            Fault::Snapshot(error) => error.remedy(),
            Fault::Preflight(_)
            | Fault::Broker(_)
            | Fault::Decode(_)
            | Fault::Protocol(_)
            | Fault::ConfirmTimeout { .. }
            | Fault::ServerSilent { .. }
            | Fault::ServerEnding
            | Fault::ServerChanged
            | Fault::PublicationGone
            | Fault::SlotTaken { .. }
            | Fault::ConnectTimeout { .. }
            | Fault::Gap { .. }
            | Fault::Mapping(_)
            | Fault::InvalidRow(_) => None,
        }
    }

    /// Whose connection has to be made anew because of it.
    pub fn side(&self) -> Side {
        match self {
            Fault::Broker(_) | Fault::ConfirmTimeout { .. } => Side::Rabbitmq,
            _ => Side::Postgres,
        }
    }

    /// The error, its causes and the cure in one line.
    pub fn explain(&self) -> String {
        let mut text = self.with_causes();
        if let Some(Remedy { cure, .. }) = self.remedy() {
            let _ = write!(text, "; {cure}");
        }
        text
    }

    /// The error and its causes in one line.
    pub(crate) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        // A broker's error says its causes itself, in front of the cure.
        let mut source = if matches!(self, Fault::Broker(_)) { None } else { self.source() };
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        text
    }
}

/// Boxed, for they are large, and a `Fault` is what every step of the loop may return.
macro_rules! boxed {
    ($($variant:ident($error:ty)),*) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Fault::$variant(Box::new(error))
            }
        })*
    };
}

boxed!(
    Replication(ReplicationError),
    Connect(ConnectError),
    Backlog(BacklogError),
    Snapshot(SnapshotError),
    Broker(BrokerError)
);

impl From<SlotHistoryError> for Fault {
    fn from(error: SlotHistoryError) -> Self {
        match error {
            SlotHistoryError::Catalog(error) => error.into(),
            SlotHistoryError::Replication(error) => error.into(),
        }
    }
}

/// The next steps after a row that cannot become a message.
fn way_out(reason: &InvalidReason) -> &'static str {
    match reason {
        // Whoever corrects the row corrects the table, and not what WAL has of it.
        InvalidReason::NotUtf8 { .. } => {
            ". The rows behind it wait. To go on: (1) set delivery.on_invalid = \"park\" and restart outboxd, which puts the row \
             aside and publishes the rows behind it; (2) have the service write the event again, as a new row with valid text; \
             (3) remove the parked row with `outboxd parked discard`"
        }
        _ => {
            ". WAL keeps the row as it was written: changing or deleting it in the table does not help, unless it was read from the \
             table for a backlog; with delivery.on_invalid = \"park\" such a row is put aside: set it and restart outboxd"
        }
    }
}

fn failures(checks: &[Check]) -> String {
    let failure =
        |check: &Check| check.failure().map(|problem| format!("{}: {}", problem.what, problem.cure));
    checks.iter().filter_map(failure).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_amqp_cannot_carry_halts_and_is_not_tried_for_ever() {
        let (message, reason) = ("a position".to_owned(), "its headers are too large".to_owned());
        let fault = Fault::from(BrokerError::Unsendable { message, reason });
        assert_eq!(fault.verdict(), Verdict::Halt);
    }
}
