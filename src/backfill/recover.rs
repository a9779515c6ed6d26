//! `outboxd recover`: creates a new slot in place of a lost one, without a gap between the published rows and the stream.
//!
//! The steps are those of the first backlog: a temporary slot exports a snapshot, the rows of the snapshot are published and
//! confirmed, and the temporary slot is copied to the permanent one. The gap is marked in the record before anything is dropped,
//! and cleared after the copy. So no other instance accepts a slot in between, and an interrupted recovery leaves a recorded gap:
//! the same command can be run again.

use std::time::Duration;

use super::publish::{Backfill, Backfilled, publish_backlog};
use super::snapshot::{RowOrder, Selection};
use crate::{
    admin::Reporter,
    ledger::Settled,
    message::{ColumnNames, Timestamp},
    parking::writer::ParkingWriter,
    position::Lsn,
    postgres::outbox_table::{TIMESTAMPTZ, TableFacts},
    preflight,
    relay::{
        Fault, Source,
        broker::Broker,
        database::{Backlog, Database, Replication, Rows, Sql},
        delivery::Delivery,
        fence_queue,
        slot_creation::watch_slot_creation,
    },
    slot::{
        continuity::{Cause, Continuity, Gap, SlotHistory},
        facts::SlotFacts,
        holder::Holder,
        record::SlotRecord,
    },
};
use process::shutdown::Shutdown;

/// Longest time between a row's `created_at` and its commit, as a transaction may last. Longer than any transaction that writes
/// messages should take. A larger value costs duplicates.
const MARGIN: Duration = Duration::from_secs(3600);

/// Result of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Start of the new slot.
    pub at: Lsn,
    /// Counts of the rows.
    pub rows: Backfill,
    /// Rows created before this time were left out; `None` if none were.
    pub since: Option<Timestamp>,
    /// Order of the rows.
    pub order: RowOrder,
}

/// Failure to recover.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The slot has no gap.
    #[error(
        "slot {slot} is healthy{}: no row is missing, and `outboxd run` continues from it. To publish rows again without \
         touching the slot, use `outboxd replay`",
        holder.as_ref().map(|holder| format!(", and in use by {holder}")).unwrap_or_default()
    )]
    Healthy {
        /// Name of the slot.
        slot: String,
        /// Holder of the slot.
        holder: Option<Box<Holder>>,
    },
    /// A shutdown came first.
    #[error(
        "interrupted before all rows were confirmed, so the new slot does not exist yet: run `outboxd recover` again, which \
         starts from the beginning"
    )]
    CutShort,
    /// A step failed.
    #[error("{}; then run `outboxd recover` again, which starts from the beginning", .0.explain().trim_end_matches(';'))]
    Fault(Box<Fault>),
}

impl<F: Into<Fault>> From<F> for RecoveryError {
    fn from(fault: F) -> Self {
        RecoveryError::Fault(Box::new(fault.into()))
    }
}

/// Creates a new slot for `source` and publishes the rows created since `since`. Without `since`, it publishes the rows created
/// since an hour before the last recorded confirm, or all rows if that time is unknown.
///
/// # Errors
/// [`RecoveryError`]. The new slot exists only after `Ok`.
pub async fn recover<D: Database, B: Broker>(
    source: &Source<D, B>,
    since: Option<Timestamp>,
    report: &Reporter,
    mut shutdown: Shutdown,
) -> Result<Recovered, RecoveryError> {
    let Source { name, database: server, mapping, broker, relay } = source;
    let database = server.options();
    let application_name = format!("outboxd recover {name}");
    let prepare = async {
        let sql = server.connect_sql(&application_name).await?;
        let facts = sql.facts(database).await?;
        let checks = preflight::recovery_checks(database, &mapping.columns, &facts);
        let lost = facts.slot(&database.slot).is_some_and(SlotFacts::is_lost);
        // A slot of another program is never dropped.
        let refused = preflight::slot_refusal(database, &facts.slots, true).is_some();
        let failed = |check: &preflight::Check| {
            check.failure().is_some() && (refused || !lost || check.name != preflight::SLOT)
        };
        let Some(table) = facts.table.filter(|_| !checks.iter().any(failed)) else {
            return Err(Fault::Preflight(checks).into());
        };
        // Validated before anything is changed.
        Selection { since, aggregate: None }.validate(database, &table, &mapping.columns)?;
        let replication = server.connect_replication(&application_name).await;
        let mut replication =
            replication.map_err(|error| Fault::no_replication(database, &facts.server, error))?;
        let mut history = server.slot_history(&sql, &mut replication, None).await?;
        let cause = match history.judge(None) {
            Err(gap) => {
                tracing::warn!(source = name, slot = database.slot, "the slot {gap}");
                Some(gap)
            }
            Ok(Continuity::First) => None,
            Ok(Continuity::Adopted | Continuity::Same) => {
                let slots = replication.slots(&database.schema, &database.slot).await?;
                let holder =
                    slots.into_iter().find(|one| one.name == database.slot).and_then(|one| one.holder);
                let holder = holder.map(Box::new);
                return Err(RecoveryError::Healthy { slot: database.slot.clone(), holder });
            }
        };
        sql.mend_publication(database, table.kind).await?;
        sql.create_records(database).await?;
        if database.parks && !facts.parked.exists {
            sql.create_parked(database).await?;
        }
        let publisher = broker.connect(&application_name, 0).await?;
        let failover = database.failover || history.is_of_failover_slot();
        let marked = marked(&history, cause);
        sql.write_record(database, &marked).await?;
        sql.drop_slot(&database.slot).await?;
        // If the publication is altered from now on, the new slot's next holder finds a gap again.
        server.look_again(&sql, &mut history).await?;
        let Some(published_by) = history.publishing.by() else {
            return Err(Fault::PublicationGone.into());
        };
        let unproven = unproven(since, marked.unproven.as_deref());
        let zone = database.rows.created_at_zone.as_deref();
        let since = since.or_else(|| since_record(marked.confirmed_until, &table, &mapping.columns, zone));
        // Without `since` all rows are published, so none is unproven.
        let unproven = unproven.filter(|_| since.is_some());
        let selection = Selection { since, aggregate: None };
        let reader = server.connect_sql(&application_name).await?;
        tracing::info!(
            source = name,
            "taking a snapshot after all open transactions that have written have ended"
        );
        let making = server.begin_backlog(replication, reader, &mapping.columns, &selection, failover);
        let backlog = watch_slot_creation(server, &application_name, making, |reason| {
            tracing::warn!(source = name, "{reason}")
        })
        .await?;
        let record = SlotRecord {
            confirmed_until: None,
            holder: None,
            gap: None,
            published_by: Some(published_by),
            unproven,
            version: marked.version + 1,
            ..marked
        };
        Ok((history.server, record, publisher, backlog, since))
    };
    // Priorities: (1) the shutdown; (2) the servers.
    let (identity, record, publisher, mut backlog, since) = tokio::select! {
        biased;
        _ = shutdown.requested() => return Err(RecoveryError::CutShort),
        prepared = prepare => prepared?,
    };

    let (at, order, taken_at) =
        (backlog.consistent_point(), backlog.rows().order(), backlog.rows().taken_at());
    let parking = ParkingWriter::new(server, application_name.clone(), relay);
    let mut delivery = Delivery::new(publisher, Settled::default(), relay, report, parking);
    // The instance that had the slot may hang and still have messages to send, so it is fenced out.
    delivery.fence(&fence_queue(&database.slot, &identity.system_id));
    let published = publish_backlog(backlog, &mut delivery, mapping, report, &mut shutdown).await;
    delivery.close().await;
    let Backfilled::Done { rows, .. } = published? else { return Err(RecoveryError::CutShort) };
    let (system_id, timeline) = identity.names();
    let record =
        SlotRecord { system_id, timeline, confirmed_flush: at, confirmed_until: Some(taken_at), ..record };
    let sql = server.connect_sql(&application_name).await?;
    sql.write_record(database, &record).await?;
    Ok(Recovered { at, rows, since, order })
}

/// The record while the recovery is under way.
fn marked(history: &SlotHistory, gap: Option<Gap>) -> SlotRecord {
    let begun = || {
        let words =
            "does not exist yet: `outboxd recover` was interrupted before it created the slot".to_owned();
        Gap { cause: Cause::Recorded(words), confirmed: None, until: None }
    };
    history.marked(&gap.unwrap_or_else(begun), None)
}

/// The reason why clean-up must remove nothing after a partial recovery: the one from before, or the operator's `--since`.
fn unproven(chosen: Option<Timestamp>, before: Option<&str>) -> Option<String> {
    let chosen = chosen
        .map(|since| format!("`outboxd recover --since {since}` left out the rows created before that time"));
    before.map(str::to_owned).or(chosen)
}

/// Time from which rows are published after a recorded confirm; `None` for all rows. A `timestamp` column without time zone is not
/// used unless the configuration has its zone.
fn since_record(
    recorded: Option<Timestamp>,
    table: &TableFacts,
    columns: &ColumnNames,
    zone: Option<&str>,
) -> Option<Timestamp> {
    let column = table.column(columns.created_at.name()?)?;
    let known = column.base_type_oid == TIMESTAMPTZ || zone.is_some();
    recorded.filter(|_| known).map(|recorded| recorded.before(MARGIN))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{message::OptionalColumn, postgres::outbox_table::ColumnFacts};

    #[test]
    fn recovery_begins_an_hour_before_the_record_where_the_table_can_tell() {
        let table = |type_oid| TableFacts::sample(vec![ColumnFacts::sample("created_at", type_oid)]);
        let noon: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let columns = ColumnNames::default();
        let zone = Some("America/New_York");
        let since = |recorded, type_oid| since_record(recorded, &table(type_oid), &columns, None);
        assert_eq!(since(Some(noon), TIMESTAMPTZ).unwrap().to_string(), "2026-01-31T11:00:00.000Z");
        assert_eq!(since(None, TIMESTAMPTZ), None);
        assert_eq!(since(Some(noon), 1114), None, "of an unknown zone");
        let off = ColumnNames { created_at: OptionalColumn::Off, ..ColumnNames::default() };
        assert_eq!(since_record(Some(noon), &table(TIMESTAMPTZ), &off, None), None);
        let stated = since_record(Some(noon), &table(1114), &columns, zone).unwrap();
        assert_eq!(stated.to_string(), "2026-01-31T11:00:00.000Z");
    }
}
