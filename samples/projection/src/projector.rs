//! Projector: applies arriving events to the view, retains them, and records each stream's progress.

use tokio_postgres::Transaction;

use super::{Change, Place, Store, Streams, generation};
use chassis::{
    Service,
    inbox::{Handler, HandlingError, Message},
};
use contract::events::{
    CUSTOMER, CUSTOMER_CREATED, ORDER, ORDER_APPROVED, ORDER_CANCELLED, ORDER_CREATED, ORDER_REJECTED,
};

/// Handler of one stream.
#[derive(Clone, Debug)]
pub struct Projector<S> {
    /// Name of the stream in `/lag`: its aggregate type.
    pub stream: &'static str,
    /// Where the view is kept.
    pub store: S,
}

/// Consumes both streams, each from its queue, and returns their progress.
pub fn consume<S: Store>(service: &mut Service, [orders, customers]: [&str; 2], store: &S) -> Streams {
    service.describe(contract::messages());
    let of_orders = [ORDER_CREATED, ORDER_APPROVED, ORDER_REJECTED, ORDER_CANCELLED];
    let projector = |stream| Projector { stream, store: store.clone() };
    vec![
        (ORDER, service.consume(orders, ORDER, &of_orders, projector(ORDER))),
        (CUSTOMER, service.consume(customers, CUSTOMER, &[CUSTOMER_CREATED], projector(CUSTOMER))),
    ]
}

impl<S: Store> Handler for Projector<S> {
    /// Applying an event again does not change the view, and a replay restores a lost one.
    const TAKES_REPLAYS: bool = true;

    async fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> Result<(), HandlingError> {
        let change = Change::of(&message.event_type, &message.body)?;
        // First statement, because a running rebuild holds this table, and no lock of the view may be held while
        // waiting for it. A rebuild in turn waits for the end of this transaction, and so for the change in the store.
        let retain = "INSERT INTO public.events (source, message_id, event_type, body) VALUES ($1, $2, $3, $4) \
                      ON CONFLICT DO NOTHING";
        let source = message.source.as_deref().unwrap_or_default();
        transaction.execute(retain, &[&source, &message.id, &message.event_type, &message.body]).await?;
        let generation = generation::current(transaction).await?;
        self.store.apply(Place { transaction, generation }, &change).await?;
        if let (Some(source), Some(position)) = (&message.source, &message.position) {
            let note = "INSERT INTO public.streams (stream, source, position, committed_at) VALUES ($1, $2, $3, $4) \
                        ON CONFLICT (stream) DO UPDATE SET source = excluded.source, \
                          position = excluded.position, committed_at = excluded.committed_at \
                        WHERE streams.source <> excluded.source OR streams.position < excluded.position";
            transaction.execute(note, &[&self.stream, source, position, &message.committed_at]).await?;
        }
        Ok(())
    }
}
