//! Saga by choreography: a placed order reserves credit if there is enough, a cancelled order releases it.
//!
//! An event with the header `saga-type` is ignored: an orchestrator coordinates the order, and sends commands.

use tokio_postgres::Transaction;

use super::store::{self, Releasing, Reserving};
use chassis::{
    inbox::{Handler, HandlingError, Message},
    saga::headers::SAGA_TYPE,
};
use contract::{
    events::{ORDER_CANCELLED, ORDER_CREATED, OrderEvent},
    repeated_id,
};

pub(super) struct Choreography;

impl Handler for Choreography {
    /// State guards every effect: a decision never changes.
    const TAKES_REPLAYS: bool = true;

    async fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> Result<(), HandlingError> {
        let OrderEvent { order_id, order_details, .. } = match message.event_type.as_str() {
            ORDER_CREATED | ORDER_CANCELLED => message.json()?,
            _ => return Err(HandlingError::unknown_event(message)),
        };
        let customer_id = order_details.customer_id;
        if let Some(saga_type) = message.headers.get(SAGA_TYPE) {
            tracing::info!(order_id, customer_id, saga_type, "left to the saga that coordinates it");
            return Ok(());
        }
        match message.event_type.as_str() {
            ORDER_CREATED => {
                let reserving = store::reserve(transaction, order_id, &order_details).await?;
                store::tell(transaction, &message.trace, order_id, customer_id, reserving).await?;
                match reserving {
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
            _ => match store::release(transaction, order_id, &order_details).await? {
                Releasing::OtherOrder => return Err(repeated_id::of_order(order_id)),
                releasing => {
                    let released = releasing == Releasing::Released;
                    tracing::info!(order_id, customer_id, released, "cancelled");
                }
            },
        }
        Ok(())
    }
}
