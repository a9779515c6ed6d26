//! `outboxd teardown`: drops one source's slot and publication and forgets that there was a slot; touches nothing that is
//! somebody else's. Messages that are parked stay: they were never published, and nobody has discarded them.

use super::{Failure, answer, source};
use crate::{
    cli::Teardown,
    parking::parked_table,
    postgres::statement::CatalogError,
    preflight::Facts,
    settings::Settings,
    slot::{
        creation,
        facts::SlotFacts,
        publication::{self, PublicationFacts},
        record,
        temporary::temporary_name,
    },
};
use diagnostics::check::Problem;

const APPLICATION_NAME: &str = "outboxd teardown";

pub(super) async fn run(settings: Settings, options: &Teardown) -> Result<(), Failure> {
    let database = &source(&settings, &options.source)?.database;
    let runtime = |error: CatalogError| Failure::runtime(&error);
    let client =
        database.endpoint.connect_sql(APPLICATION_NAME).await.map_err(|error| Failure::runtime(&error))?;
    let facts = Facts::read(&client, database).await.map_err(runtime)?;

    // The record would stay behind, and be taken for a gap by whoever makes a slot of this name.
    if let Some(left) = facts.left_behind.iter().find(|found| found.is_record()) {
        let Problem { what, cure, .. } = left.problem(database, facts.records, &facts.server.role);
        return Err(Failure::Runtime(format!("nothing is dropped: {what}: {cure}")));
    }

    // The slot first: while it is in use, the publication is needed.
    let ours = [database.slot.clone(), temporary_name(&database.slot)];
    for slot in facts.slots.iter().filter(|slot| ours.contains(&slot.name)) {
        refuse_foreign(slot, &facts.server.database)?;
        if slot.active_pid.is_some() {
            let uses = facts.slot_uses.iter().find(|one| one.slot == slot.name);
            let holder = uses.and_then(|one| one.holder.as_ref()).map(ToString::to_string);
            return Err(runtime(CatalogError::SlotInUse { slot: slot.name.clone(), holder }));
        }
    }
    let dropped = creation::drop_slot(&client, &database.slot).await.map_err(runtime)?;
    answer(&line("slot", &database.slot, dropped))?;
    // Or the next slot of this name would be a gap.
    let forgotten = record::tear_down(&client, database).await.map_err(runtime)?;
    answer(&line("record of slot", &database.slot, forgotten))?;
    if let Some(rows @ 1..) = parked_table::count(&client, database).await.map_err(runtime)? {
        answer(&format!(
            "parked messages: {rows} stay in {}; `outboxd parked` lists, requeues or discards them\n",
            parked_table::TABLE
        ))?;
    }

    if let Some(found) = &facts.publication
        && let Some(why) = why_it_stays(found, &facts.server.role)
    {
        let next = match (found.is_shared(), &facts.table) {
            (false, _) => format!(". To remove it: {};", publication::drop_sql(&database.publication)),
            (true, None) => String::new(),
            (true, Some(table)) => found
                .drop_table_sql(&database.publication, &database.table, table.kind)
                .map(|sql| format!(". To take {} out of it: {sql};", database.table.quoted()))
                .unwrap_or_default(),
        };
        return answer(&format!(
            "publication {}: stays, because {why}; it holds no WAL back{next}\n",
            database.publication
        ));
    }
    let dropped = publication::drop(&client, &database.publication).await.map_err(runtime)?;
    answer(&line("publication", &database.publication, dropped))
}

/// A name alone is no proof: a slot that lost its way into the configuration may be a standby's.
fn refuse_foreign(slot: &SlotFacts, database: &str) -> Result<(), Failure> {
    if slot.plugin.as_deref() == Some("pgoutput") && slot.here {
        return Ok(());
    }
    Err(Failure::Runtime(format!(
        "slot {} is not dropped: it is no pgoutput slot of database {database}, so it is not outboxd's; correct postgres.slot",
        slot.name
    )))
}

/// A publication that is somebody else's is not dropped. One that a DBA has made stays the DBA's.
fn why_it_stays(found: &PublicationFacts, role: &str) -> Option<String> {
    let PublicationFacts { owned, owner, .. } = found;
    let mut why = Vec::new();
    if found.is_shared() {
        why.push("it is for other tables too".to_owned());
    }
    if !owned {
        why.push(format!(
            "its owner is {owner}, and only the owner or a superuser may drop it, not role {role}"
        ));
    }
    (!why.is_empty()).then(|| why.join(", and "))
}

fn line(what: &str, name: &str, dropped: bool) -> String {
    format!("{what} {name}: {}\n", if dropped { "dropped" } else { "was not there" })
}
