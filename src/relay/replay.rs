//! `outboxd replay`: rows that are still in the table, published again and marked, from one snapshot. Touches no slot, so
//! it may run beside the relay; what it publishes of an aggregate is in order by itself, and in no order with what the
//! relay publishes of the same aggregate meanwhile.

use super::{
    Fault, Shutdown, Source,
    backfill::{Purpose, publish_rows},
    delivery::Delivery,
};
use crate::{
    admin::Reporter,
    ledger::Progress,
    postgres::snapshot::{RowOrder, Selection, SnapshotRows},
    rabbitmq::publisher::Publisher,
};

/// What a replay did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// So many rows, the first ones in order, are published and confirmed.
    pub rows: u64,
    /// These were all; otherwise it was asked to end.
    pub complete: bool,
    /// In what order they came.
    pub order: RowOrder,
}

/// Publishes the selected rows again; on `shutdown`, waits for those that are on their way.
///
/// # Errors
/// The fault; what was confirmed before it stays published.
pub async fn replay(
    source: &Source,
    selection: &Selection,
    report: &Reporter,
    mut shutdown: Shutdown,
) -> Result<Replayed, Fault> {
    let Source { name, database, mapping, broker, relay } = source;
    let application_name = format!("outboxd replay {name}");
    let prepare = async {
        let publisher = Publisher::connect(broker, &application_name, 0).await?;
        let reader = database.endpoint.connect_sql(&application_name).await?;
        let rows = SnapshotRows::of_now(reader, database, &mapping.columns, selection).await?;
        Ok::<_, Fault>((publisher, rows))
    };
    let (publisher, mut rows) = tokio::select! {
        _ = shutdown.requested() => {
            return Ok(Replayed { rows: 0, complete: false, order: RowOrder::None });
        }
        prepared = prepare => prepared?,
    };
    let order = rows.order();
    let mut delivery = Delivery::new(publisher, Progress::default(), relay, report);
    let published =
        publish_rows(&mut rows, Purpose::Replay, &mut delivery, mapping, relay, report, &mut shutdown).await;
    delivery.close().await;
    let published = published?;
    Ok(Replayed { rows: published.confirmed, complete: published.complete, order })
}
