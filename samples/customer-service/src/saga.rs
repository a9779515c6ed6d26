//! Saga of the customer service: a placed order reserves credit if there is enough, a cancelled order releases it.

use tokio_postgres::Transaction;

use super::store::{self, Releasing, Reserving};
use chassis::inbox::{Handler, HandlingError, Message};
use contract::{
    events::{ORDER_CANCELLED, ORDER_CREATED, OrderEvent},
    repeated_id,
};

pub(super) struct Saga;

impl Handler for Saga {
    /// State guards every effect: a decision never changes.
    const TAKES_REPLAYS: bool = true;

    async fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> Result<(), HandlingError> {
        match message.event_type.as_str() {
            ORDER_CREATED => {
                let OrderEvent { order_id, order_details, .. } = message.json()?;
                let customer_id = order_details.customer_id;
                match store::reserve(transaction, &message.trace, order_id, &order_details).await? {
                    Reserving::Decided(decision) => {
                        tracing::info!(order_id, customer_id, ?decision, "decided")
                    }
                    Reserving::Again(decision) if message.replayed => {
                        tracing::info!(order_id, customer_id, ?decision, "the order was decided before");
                    }
                    Reserving::Again(decision) => tracing::warn!(
                        order_id,
                        customer_id,
                        ?decision,
                        "the order was decided before, by another message: a copy under another id, or an order id that \
                         came again; the decision is sent again, and no credit moves"
                    ),
                    Reserving::OtherOrder => return Err(repeated_id::of_order(order_id)),
                }
            }
            ORDER_CANCELLED => {
                let OrderEvent { order_id, order_details, .. } = message.json()?;
                let customer_id = order_details.customer_id;
                match store::release(transaction, order_id, &order_details).await? {
                    Releasing::OtherOrder => return Err(repeated_id::of_order(order_id)),
                    releasing => {
                        let released = releasing == Releasing::Released;
                        tracing::info!(order_id, customer_id, released, "cancelled");
                    }
                }
            }
            _ => return Err(HandlingError::unknown_event(message)),
        }
        Ok(())
    }
}
