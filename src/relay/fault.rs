//! Faults that end an attempt, and the one verdict on each: retry or halt.

use std::{error::Error, fmt::Write as _, time::Duration};

use super::mishap::Overdue;
use crate::{
    admin::Side,
    backfill::{backlog::BacklogError, snapshot::SnapshotError},
    message::{InvalidReason, InvalidRow, MappingError},
    postgres::{SourceDatabase, statement::CatalogError, statement_remedy},
    preflight::{self, Check, facts::server::ServerFacts},
    rabbitmq::cures,
    slot::{continuity::Gap, creation::SlotError, history::SlotHistoryError},
};
use amqp_publisher::BrokerError;
use diagnostics::remedy::{Mender, Remedy};
use pg_replication::{ConnectError, ReplicationError, pgoutput::DecodeError};

/// Reason why an attempt ended.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The replication connection failed.
    #[error(transparent)]
    Replication(Box<ReplicationError>),
    /// The SQL connection could not be made.
    #[error(transparent)]
    Connect(Box<ConnectError>),
    /// A query of the catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The slot could not be created or dropped.
    #[error(transparent)]
    Slot(Box<SlotError>),
    /// The backlog could not be read.
    #[error(transparent)]
    Backlog(Box<BacklogError>),
    /// A check of the database failed.
    #[error("{}", failures(.0))]
    Preflight(Vec<Check>),
    /// The broker's side failed.
    #[error("{}", cures::explain(.0))]
    Broker(Box<BrokerError>),
    /// The stream from PostgreSQL is not pgoutput.
    #[error(
        "outboxd cannot decode a message of the replication stream; rows wait in the slot; please report this"
    )]
    Decode(#[from] DecodeError),
    /// PostgreSQL sent messages in an impossible order.
    #[error("unexpected message from PostgreSQL: {0}; rows wait in the slot; please report this")]
    Protocol(&'static str),
    /// A confirm did not arrive in time.
    #[error("{what} (waited {} ms: rabbitmq.confirm_timeout_ms, and longer each time)", after.as_millis())]
    ConfirmTimeout {
        /// The limit.
        after: Duration,
        /// The message, and possible causes.
        what: Overdue,
    },
    /// PostgreSQL did not answer a request for a sign of life.
    #[error("PostgreSQL has been silent for {} ms: it hangs, or the connection is cut", for_at_least.as_millis())]
    ServerSilent {
        /// Duration of the silence.
        for_at_least: Duration,
    },
    /// PostgreSQL is shutting down. The shutdown waits until every walsender has its WAL confirmed.
    #[error("PostgreSQL is shutting down")]
    ServerEnding,
    /// A standby's new connection reached another server than its first one.
    #[error(
        "PostgreSQL is another server than a moment ago, or was promoted; outboxd connects again and checks it"
    )]
    ServerChanged,
    /// There is neither publication nor slot. A slot created now would skip rows.
    #[error(
        "the publication was dropped or altered a moment ago; outboxd checks it again before it creates a slot"
    )]
    PublicationGone,
    /// The process was frozen just after it acquired the slot.
    #[error("slot \"{slot}\" belongs to another instance by now; this instance asks for it again")]
    SlotTaken {
        /// Name of the slot.
        slot: String,
    },
    /// The servers accept connections, but a step before streaming does not end.
    #[error(
        "connecting and the first checks took longer than {} s; see what PostgreSQL waits for: SELECT pid, state, wait_event, query \
         FROM pg_stat_activity WHERE application_name LIKE 'outboxd%'",
        after.as_secs()
    )]
    ConnectTimeout {
        /// The limit.
        after: Duration,
    },
    /// Rows of the table could not be read.
    #[error(transparent)]
    Snapshot(Box<SnapshotError>),
    /// The slot is lost, gone, replaced, or has skipped rows.
    #[error(
        "slot \"{slot}\" {gap}. outboxd does not create another slot by itself: `outboxd recover --source {source_name}` creates it and \
         publishes the rows that the table still has"
    )]
    Gap {
        /// Name of the slot.
        slot: String,
        /// Name of the source.
        source_name: String,
        /// The cause, and the position after which rows may be missing.
        gap: Box<Gap>,
    },
    /// The table lacks columns that the configuration names.
    #[error(
        "{0}. If a column was renamed: PostgreSQL sends a row with the names that its columns had when it was written. Rename the column \
         back until the rows that wait are confirmed"
    )]
    Mapping(MappingError),
    /// A row that cannot become a message.
    #[error("{0}{steps}", steps = way_out(&.0.reason))]
    InvalidRow(InvalidRow),
}

/// Reaction to a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Retry with backoff: the cause may pass by itself.
    Again,
    /// Show `halted` and retry with backoff: a person has to repair the cause, and nothing tells outboxd when that is done.
    HaltUntilMended,
    /// Stop until a restart: going on would lose or repeat rows, or fail again.
    Halt,
    /// Stop, and check now and then whether `outboxd recover` has repaired the slot.
    HaltUntilRecovered,
}

impl Fault {
    /// Fault of a slot with a gap.
    pub(crate) fn gap(slot: &str, source_name: &str, gap: Gap) -> Self {
        Fault::Gap { slot: slot.to_owned(), source_name: source_name.to_owned(), gap: Box::new(gap) }
    }

    /// Fault of a server that accepted an SQL connection and refused a replication connection.
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

    /// Decides between retry and halt. Nothing else does.
    pub fn verdict(&self) -> Verdict {
        match self {
            // The cause is the row, as with `InvalidRow`.
            Fault::Broker(error) if matches!(**error, BrokerError::Unsendable { .. }) => Verdict::Halt,
            Fault::Gap { .. } => Verdict::HaltUntilRecovered,
            Fault::Mapping(_) | Fault::InvalidRow(_) => Verdict::Halt,
            _ => match self.mender() {
                Mender::Time => Verdict::Again,
                Mender::Person => Verdict::HaltUntilMended,
            },
        }
    }

    /// Returns who repairs the cause while outboxd retries.
    fn mender(&self) -> Mender {
        match self {
            Fault::Preflight(checks) => preflight::mender(checks),
            Fault::Broker(error) => error.mender(),
            _ => self.remedy().map_or(Mender::Time, |remedy| remedy.mender),
        }
    }

    /// Returns the remedy, unless the fault's own text has it.
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
            | Fault::Slot(_)
            | Fault::SlotTaken { .. }
            | Fault::ConnectTimeout { .. }
            | Fault::Gap { .. }
            | Fault::Mapping(_)
            | Fault::InvalidRow(_) => None,
        }
    }

    /// Returns the side whose connection has to be made anew.
    pub fn side(&self) -> Side {
        match self {
            Fault::Broker(_) | Fault::ConfirmTimeout { .. } => Side::Rabbitmq,
            _ => Side::Postgres,
        }
    }

    /// The error, its causes and the remedy in one line.
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
        // The text of a broker's error already has its causes, in front of the remedy.
        let mut source = if matches!(self, Fault::Broker(_)) { None } else { self.source() };
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        text
    }
}

/// Boxed, because these errors are large and every step of the loop may return a `Fault`.
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

impl From<SlotError> for Fault {
    fn from(error: SlotError) -> Self {
        match error {
            SlotError::Catalog(error) => error.into(),
            error => Fault::Slot(Box::new(error)),
        }
    }
}

impl From<SlotHistoryError> for Fault {
    fn from(error: SlotHistoryError) -> Self {
        match error {
            SlotHistoryError::Catalog(error) => error.into(),
            SlotHistoryError::Replication(error) => error.into(),
        }
    }
}

/// Next steps for a row that cannot become a message.
fn way_out(reason: &InvalidReason) -> &'static str {
    match reason {
        // A correction changes the table and not the row in WAL.
        InvalidReason::NotUtf8 { .. } => {
            ". Later rows wait. To go on: (1) set delivery.on_invalid = \"park\" and restart outboxd, which parks the row and publishes \
             the later ones; (2) have the service write the event again, as a new row with valid text; \
             (3) remove the parked row with `outboxd parked discard`"
        }
        _ => {
            ". Later rows wait. To go on, set delivery.on_invalid = \"park\" and restart outboxd, which parks the row. Changing or deleting \
             the row in the table helps only for a backlog row: WAL keeps the row as it was written"
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
    use crate::message::MissingColumn;

    #[test]
    fn a_message_that_amqp_cannot_carry_halts_and_is_not_tried_for_ever() {
        let (message, reason) = ("a position".to_owned(), "its headers are too large".to_owned());
        let fault = Fault::from(BrokerError::Unsendable { message, reason });
        assert_eq!(fault.verdict(), Verdict::Halt);
    }

    #[test]
    fn a_missing_column_may_be_one_that_rows_have_under_its_former_name() {
        let missing = MissingColumn {
            name: "kind".into(),
            wanted_by: "outbox.columns.event_type".into(),
            nearest: Some("type".into()),
        };
        let fault = Fault::Mapping(MappingError { missing: vec![missing], columns: vec!["type".into()] });
        let text = fault.explain();
        assert!(text.contains("lacks column \"kind\"") && text.contains("Rename the column back"), "{text}");
    }
}
