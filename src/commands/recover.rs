//! `outboxd recover`: publishes the rows that may be missing, then creates a new slot in place of a lost one.

use super::{Failure, answer, source, stop::stoppable};
use crate::{
    admin::Board,
    backfill::{
        publish::Backfill,
        recover::{self, Recovered},
    },
    cli::Recover,
    postgres::SourceDatabase,
    settings::Settings,
};

pub(super) async fn run(settings: Settings, options: &Recover) -> Result<(), Failure> {
    let mut source = source(&settings, &options.source)?;
    // `postgres.create` restricts `run` only: this command is a request for a slot.
    source.database.create = true;
    let report = Board::new().reporter(&source.name);
    let recovering = stoppable(settings.drain_timeout, async |shutdown| {
        recover::recover(&source, options.since, &report, shutdown).await
    });
    let recovered = recovering.await?.map_err(|error| Failure::Runtime(error.to_string()))?;
    answer(&text(&source.database, &recovered))
}

fn text(database: &SourceDatabase, recovered: &Recovered) -> String {
    let slot = &database.slot;
    let Recovered { at, rows, since, order } = recovered;
    let which = match (since, &database.rows.unpublished) {
        (Some(since), Some(_)) => format!("created since {since} and selected by outbox.unpublished"),
        (Some(since), None) => format!("created since {since}"),
        (None, Some(_)) => "all that outbox.unpublished selects".to_owned(),
        (None, None) => "all that the table has".to_owned(),
    };
    let Backfill { confirmed, parked, dropped } = rows;
    let set_aside = [
        (parked, "rows parked (`outboxd parked` lists, requeues or discards them)"),
        (dropped, "rows dropped as unroutable (delivery.on_unroutable = \"drop\"): these messages are lost"),
    ];
    let set_aside: String = set_aside
        .into_iter()
        .filter(|(count, _)| **count > 0)
        .map(|(count, what)| format!("{what}: {count}\n"))
        .collect();
    format!(
        "rows published and confirmed: {confirmed} ({which}; order: {order})\n{set_aside}\
         slot {slot}: created at {at}; a running outboxd continues with it by itself\n\
         Some rows may have been published before. Their copies carry the same message_id.\n"
    )
}
