//! `outboxd replay`: publishes rows that are still in the table again.

use super::{Failure, answer, source, stop::stoppable};
use crate::{
    admin::Board,
    backfill::{
        replay::{self, Replayed},
        snapshot::Selection,
    },
    cli::Replay,
    postgres::SourceDatabase,
    settings::Settings,
};

pub(super) async fn run(settings: Settings, options: &Replay) -> Result<(), Failure> {
    let source = source(&settings, &options.source)?;
    let report = Board::new().reporter(&source.name);
    let selection = Selection { since: options.since, aggregate: options.aggregate.clone() };
    let replaying = stoppable(settings.drain_timeout, async |shutdown| {
        replay::replay(&source, &selection, &report, shutdown).await
    });
    let Replayed { rows, left_out, complete, order } =
        replaying.await?.map_err(|fault| Failure::Runtime(fault.explain()))?;
    let since = options.since.map(|since| format!("created since {since}; ")).unwrap_or_default();
    answer(&format!("rows published again and confirmed: {rows} ({since}order: {order})\n"))?;
    if rows + left_out == 0 && complete {
        answer(&nothing(options, &source.database))?;
    }
    if left_out > 0 {
        answer(&format!("rows left out because they cannot be published (see the log): {left_out}\n"))?;
    }
    if complete {
        return Ok(());
    }
    Err(Failure::Runtime(format!(
        "ended before all rows were published again: the first {rows} are confirmed; copies of later rows may have been \
         sent; run it again: it starts from the first row"
    )))
}

/// Reason why nothing was published.
fn nothing(options: &Replay, database: &SourceDatabase) -> String {
    let table = &database.table;
    let since = options.since.map(|since| format!(" created since {since}")).unwrap_or_default();
    let condition = database.rows.unpublished.as_ref().map_or("", |_| " that outbox.unpublished selects");
    match &options.aggregate {
        Some(aggregate) => format!(
            "table {table} has no row of aggregate {aggregate}{since}{condition}; type and id must match exactly\n"
        ),
        None => format!("table {table} has no row{since}{condition}\n"),
    }
}
