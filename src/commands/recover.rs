//! `outboxd recover`: a new slot in place of a lost one, after the rows that may be missing have been published.

use super::{Failure, answer, source, stop::stoppable};
use crate::{
    admin::Board,
    cli::Recover,
    relay::{self, Recovered},
    settings::Settings,
};

pub(super) async fn run(settings: Settings, options: &Recover) -> Result<(), Failure> {
    let mut source = source(&settings, &options.source)?;
    // Whoever calls it wants a slot made: `postgres.create` says what `run` may do.
    source.database.create = true;
    let report = Board::new().reporter(&source.name);
    let recovering = stoppable(settings.drain_timeout, async |shutdown| {
        relay::recover(&source, options.since, &report, shutdown).await
    });
    let recovered = recovering.await?.map_err(|error| Failure::Runtime(error.to_string()))?;
    answer(&text(&source.database.slot, &recovered))
}

fn text(slot: &str, recovered: &Recovered) -> String {
    let Recovered { at, rows, since, order } = recovered;
    let which = match since {
        Some(since) => format!("created since {since}"),
        None => "all that the table has".to_owned(),
    };
    format!(
        "rows published and confirmed: {rows} ({which}; order: {order})\n\
         slot {slot}: made at {at}; a running outboxd goes on with it by itself\n\
         Some of the rows may have been published before: such copies carry the same message_id.\n"
    )
}
