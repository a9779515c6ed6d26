//! An order was placed: credit is reserved, or not. An order was cancelled: its credit is given back.

use tokio_postgres::Transaction;

use super::store;
use crate::{
    chassis::inbox::{Handler, HandlingError, Message},
    samples::events::{ORDER_CANCELLED, ORDER_CREATED, OrderEvent},
};

pub(super) struct Saga;

impl Handler for Saga {
    async fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> Result<(), HandlingError> {
        match message.event_type.as_str() {
            ORDER_CREATED => {
                let OrderEvent { order_id, order_details, .. } = message.json()?;
                let decision = store::reserve(transaction, &message.trace, order_id, &order_details).await?;
                tracing::info!(order_id, customer_id = order_details.customer_id, ?decision, "decided");
            }
            ORDER_CANCELLED => {
                let OrderEvent { order_id, order_details, .. } = message.json()?;
                let released = store::release(transaction, order_id, &order_details).await?;
                tracing::info!(order_id, customer_id = order_details.customer_id, released, "cancelled");
            }
            _ => return Err(HandlingError::unknown_event(message)),
        }
        Ok(())
    }
}
