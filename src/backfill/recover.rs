//! `outboxd recover`: a new slot in place of one that is lost, with nothing falling between.
//!
//! The same steps as the first backlog: a temporary slot exports a snapshot, the rows of the snapshot are published and
//! confirmed, and the temporary slot is copied to the permanent one. Before anything is dropped the gap is marked in the
//! record, and only after the copy the record says that all is well: an instance that looks on takes no slot for the
//! right one before, and whatever ends us in between leaves a gap that is still named, for the same command again.

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
        record::SlotRecord,
        usage::Holder,
    },
};
use process::shutdown::Shutdown;

/// Rows may have been created so long before the last confirmed message was committed, and yet be committed after it: a
/// transaction may last. More than any transaction that writes messages should; what it costs are copies.
const MARGIN: Duration = Duration::from_secs(3600);

/// What a recovery did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where the new slot begins.
    pub at: Lsn,
    /// What became of the rows.
    pub rows: Backfill,
    /// Rows created before were left out; `None`: none were.
    pub since: Option<Timestamp>,
    /// In what order the rows came.
    pub order: RowOrder,
}

/// Why there is no new slot.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// There is nothing to recover from.
    #[error(
        "slot {slot} is healthy{}: nothing is missing, `outboxd run` goes on from it; `outboxd replay` publishes rows again \
         without touching the slot",
        holder.as_ref().map(|holder| format!(", and in use by {holder}")).unwrap_or_default()
    )]
    Healthy {
        /// The slot.
        slot: String,
        /// Its holder.
        holder: Option<Box<Holder>>,
    },
    /// Asked to end first.
    #[error(
        "ended before all rows were confirmed, so there is no new slot yet: run it again, it begins anew"
    )]
    CutShort,
    /// Something failed.
    #[error("{}; run `outboxd recover` again, it begins anew", .0.explain())]
    Fault(Box<Fault>),
}

impl<F: Into<Fault>> From<F> for RecoveryError {
    fn from(fault: F) -> Self {
        RecoveryError::Fault(Box::new(fault.into()))
    }
}

/// Makes a new slot for `source` and publishes the rows that were created since `since`; without it, since the last
/// recorded confirm, less one hour, or all if that is not known.
///
/// # Errors
/// [`RecoveryError`]: the new slot is there only without one.
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
        // Somebody else's is not dropped.
        let refused = preflight::slot_refusal(database, &facts.slot_uses, true).is_some();
        let failed = |check: &preflight::Check| {
            check.failure().is_some() && (refused || !lost || check.name != preflight::SLOT)
        };
        let Some(table) = facts.table.filter(|_| !checks.iter().any(failed)) else {
            return Err(Fault::Preflight(checks).into());
        };
        // Before anything is changed.
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
                let uses = replication.slot_uses(&database.schema, &database.slot).await?;
                let holder =
                    uses.into_iter().find(|one| one.slot == database.slot).and_then(|one| one.holder);
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
        // Whatever is altered from now on is a gap again to whoever takes the new slot.
        server.look_again(&sql, &mut history).await?;
        let Some(published_by) = history.publishing.by() else {
            return Err(Fault::PublicationGone.into());
        };
        let unproven = unproven(since, marked.unproven.as_deref());
        let zone = database.rows.created_at_zone.as_deref();
        let since = since.or_else(|| since_record(marked.confirmed_until, &table, &mapping.columns, zone));
        // All rows are published, so all are accounted for.
        let unproven = unproven.filter(|_| since.is_some());
        let selection = Selection { since, aggregate: None };
        let reader = server.connect_sql(&application_name).await?;
        tracing::info!(source = name, "making a snapshot, once every transaction that writes now has ended");
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
    // Priorities: (1) being asked to end; (2) the servers.
    let (identity, record, publisher, mut backlog, since) = tokio::select! {
        biased;
        _ = shutdown.requested() => return Err(RecoveryError::CutShort),
        prepared = prepare => prepared?,
    };

    let (at, order, taken_at) =
        (backlog.consistent_point(), backlog.rows().order(), backlog.rows().taken_at());
    let parking = ParkingWriter::new(server, application_name.clone(), relay);
    let mut delivery = Delivery::new(publisher, Settled::default(), relay, report, parking);
    // The instance that had the slot may hang, and still hold messages.
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
        let words = "was to be made by `outboxd recover`, which did not come to its end".to_owned();
        Gap { cause: Cause::Recorded(words), confirmed: None, until: None }
    };
    history.marked(&gap.unwrap_or_else(begun), None)
}

/// What clean-up has to leave alone afterwards, unless all rows are published: what it had to before, and what somebody chose to
/// leave out.
fn unproven(chosen: Option<Timestamp>, before: Option<&str>) -> Option<String> {
    let chosen =
        chosen.map(|since| format!("`outboxd recover --since {since}` left out the rows created before"));
    before.map(str::to_owned).or(chosen)
}

/// Where a record lets begin; `None`: with the first row. A `timestamp` without time zone is left alone, unless
/// the configuration says in which zone it was written.
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
    use crate::{
        message::OptionalColumn,
        postgres::outbox_table::{ColumnFacts, TableKind},
    };

    #[test]
    fn recovery_begins_an_hour_before_the_record_where_the_table_can_tell() {
        let table = |type_oid| TableFacts {
            oid: 1,
            kind: TableKind::Ordinary,
            logged: true,
            may_use_schema: true,
            may_select: true,
            may_remove: true,
            owned: true,
            row_security: false,
            rows_estimate: 0,
            columns: vec![ColumnFacts {
                name: "created_at".into(),
                type_oid,
                base_type_oid: type_oid,
                type_name: String::new(),
                nullable: true,
                default: None,
                sequence_cache: None,
                is_string: false,
                generated: None,
                sent: true,
                may_select: true,
            }],
        };
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
