//! Connections to both servers, the checks that must pass before the slot is touched, and the topology.

use super::{carryover::Carryover, gap::judge};
use crate::{
    admin::Reporter,
    postgres::outbox_table::TableFacts,
    preflight::{self, condition::Doubt, facts::family::UnsentTables},
    relay::{
        Fault, Source,
        broker::Broker,
        database::{Database, Sql},
    },
    slot::{continuity::SlotHistory, facts::SlotFacts},
};

/// Result of the first stage of an attempt.
pub(super) struct Connected<R, P> {
    pub(super) connection: R,
    pub(super) publisher: P,
    pub(super) table: TableFacts,
    pub(super) doubt: Option<Doubt>,
    pub(super) history: SlotHistory,
}

/// Connects to both servers and checks every condition. `number`: attempts that failed since the last progress.
///
/// # Errors
///
/// [`Fault::Preflight`], [`Fault::Gap`], or a fault of a connection.
pub(super) async fn connect<D: Database, B: Broker>(
    source: &Source<D, B>,
    report: &Reporter,
    number: usize,
    carryover: &mut Carryover,
) -> Result<Connected<D::Replication, B::Publisher>, Fault> {
    let Source { name, mapping, broker, .. } = source;
    let database = source.database.options();
    let application_name = source.application_name();
    let sql = source.database.connect_sql(&application_name).await?;
    let mut facts = sql.facts(database).await?;
    carryover.slot_wants_use = facts.slot(&database.slot).is_some_and(SlotFacts::wants_use);
    // A program may use the slot for a moment only. `acquire` looks several times.
    for one in facts.slots.iter_mut().filter(|one| one.is_of(&database.slot) && one.stranger().is_some()) {
        one.holder = None;
    }
    let checks = preflight::checks(database, &mapping.columns, &facts);
    report.unpublished_tables(facts.family.unpublished.as_ref().map(UnsentTables::explain));
    // A problem of the slot or of its publication may be a gap, which is judged first.
    let failed = |besides: &[&str]| {
        let mut failures = checks.iter().filter(|check| check.failure().is_some());
        failures.any(|check| !besides.contains(&&*check.name))
    };
    // For a process that had the slot, a table of another name in its place is a gap, too.
    let judged = match carryover.slot {
        Some(_) => &[preflight::SLOT, preflight::PUBLICATION, preflight::RECORDED_TABLE][..],
        None => &[preflight::SLOT, preflight::PUBLICATION],
    };
    if failed(judged) {
        return Err(Fault::Preflight(checks));
    }
    let connection = source.database.connect_replication(&application_name).await;
    let mut connection = connection.map_err(|error| Fault::no_replication(database, &facts.server, error))?;
    let remembered = carryover.slot.as_ref();
    let timeline = remembered.map(|slot| slot.timeline);
    let mut history = source.database.slot_history(&sql, &mut connection, timeline).await?;
    judge(source, &sql, &history, remembered).await?;
    let Some(table) = facts.table.filter(|_| !failed(&[])) else {
        return Err(Fault::Preflight(checks));
    };
    let parked = checks.iter().find(|check| check.name == preflight::PARKED);
    let parked_elsewhere = parked.and_then(preflight::Check::as_warning).map(ToString::to_string);
    report.parked_elsewhere(parked_elsewhere);
    let doubt = facts.doubt;
    if let Some(doubt) = doubt.as_ref().filter(|_| !carryover.doubts_condition) {
        carryover.doubts_condition = true;
        tracing::warn!(source = name, "{doubt}: {}", doubt.cure());
    }
    carryover.meet(&history, name);
    // The publication comes before the slot: decoding looks the publication up as of the time of each change.
    if facts.publication.is_none() && history.slot.is_none() {
        sql.mend_publication(database, table.kind).await?;
        tracing::info!(source = name, publication = database.publication, "created the publication");
        source.database.look_again(&sql, &mut history).await?;
    }
    if !facts.records.exists {
        sql.create_records(database).await?;
        tracing::info!(source = name, schema = database.schema, "created the table outboxd_state");
    }
    if database.parks && !facts.parked.exists {
        sql.create_parked(database).await?;
        tracing::info!(source = name, schema = database.schema, "created the table outboxd_parked");
    }
    let publisher = broker.connect(&application_name, number).await?;
    Ok(Connected { connection, publisher, table, doubt, history })
}
