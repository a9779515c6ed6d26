//! `outboxd replay`: rows that are still in the table, published again and marked, from one snapshot. Touches no slot, so
//! it may run beside the relay; what it publishes of an aggregate is in order by itself, and in no order with what the
//! relay publishes of the same aggregate meanwhile. Nothing is parked: what cannot be published is still in the table, and is
//! left out.

use super::publish::{Purpose, publish_rows};
use super::snapshot::{RowOrder, Selection};
use crate::{
    admin::Reporter,
    ledger::Settled,
    parking::writer::ParkingWriter,
    relay::{
        Fault, OnInvalid, OnNack, OnUnroutable, RelayOptions, Source,
        broker::Broker,
        database::{Database, Rows},
        delivery::Delivery,
    },
};
use process::shutdown::Shutdown;

/// What a replay did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// So many rows, the first ones in order, are published and confirmed, but for those left out.
    pub rows: u64,
    /// So many of the first ones were left out: no message can be made of them, or no queue is bound for it.
    pub left_out: u64,
    /// These were all; otherwise it was asked to end.
    pub complete: bool,
    /// In what order they came.
    pub order: RowOrder,
}

/// Publishes the selected rows again; on `shutdown`, waits for those that are on their way.
///
/// # Errors
/// The fault; what was confirmed before it stays published.
pub async fn replay<D: Database, B: Broker>(
    source: &Source<D, B>,
    selection: &Selection,
    report: &Reporter,
    mut shutdown: Shutdown,
) -> Result<Replayed, Fault> {
    let Source { name, database, mapping, broker, relay } = source;
    let application_name = format!("outboxd replay {name}");
    let prepare = async {
        let publisher = broker.connect(&application_name, 0).await?;
        let reader = database.connect_sql(&application_name).await?;
        let rows = database.snapshot(reader, &mapping.columns, selection).await?;
        Ok::<_, Fault>((publisher, rows))
    };
    // Priorities: (1) being asked to end; (2) the servers.
    let (publisher, mut rows) = tokio::select! {
        biased;
        _ = shutdown.requested() => {
            return Ok(Replayed { rows: 0, left_out: 0, complete: false, order: RowOrder::None });
        }
        prepared = prepare => prepared?,
    };
    let order = rows.order();
    let relay = leaving_out(relay);
    let parking = ParkingWriter::new(database, application_name, &relay);
    let mut delivery = Delivery::new(publisher, Settled::default(), &relay, report, parking);
    let published =
        publish_rows(&mut rows, Purpose::Replay, &mut delivery, mapping, report, &mut shutdown).await;
    let left_out = delivery.left_out();
    delivery.close().await;
    let published = published?;
    let rows = published.settled.saturating_sub(left_out);
    Ok(Replayed { rows, left_out, complete: published.complete, order })
}

/// What would be parked is left out.
fn leaving_out(relay: &RelayOptions) -> RelayOptions {
    let on_unroutable = match relay.on_unroutable {
        OnUnroutable::Park => OnUnroutable::Drop,
        policy => policy,
    };
    let on_invalid = match relay.on_invalid {
        OnInvalid::Park => OnInvalid::LeaveOut,
        policy => policy,
    };
    RelayOptions { on_unroutable, on_invalid, on_nack: OnNack::Wait, ..relay.clone() }
}
