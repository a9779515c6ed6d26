//! `outboxd replay`: publishes rows of the table again, marked as replayed, from one snapshot.
//!
//! A replay touches no slot, so it may run beside the relay. Its messages of an aggregate are in order among themselves, but not
//! with messages that the relay publishes meanwhile. A row that cannot be published is left out and not parked: it is still in the
//! table.

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

/// Result of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Number of rows published and confirmed, from the first on, without those left out.
    pub rows: u64,
    /// Number of rows left out: they cannot become messages, or no queue is bound for the message.
    pub left_out: u64,
    /// Set if these were all rows. Otherwise a shutdown ended the replay.
    pub complete: bool,
    /// Order of the rows.
    pub order: RowOrder,
}

/// Publishes the selected rows again. On `shutdown`, waits for the confirms of messages in flight.
///
/// # Errors
/// The fault that ended the replay. Messages confirmed before it stay published.
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
    // Priorities: (1) the shutdown; (2) the servers.
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

/// The options of a replay, which leaves rows out in place of parking them.
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
