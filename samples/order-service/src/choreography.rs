//! Saga of the order service: the customer service's decision approves or rejects an order.

use tokio_postgres::Transaction;

use super::{
    order::Step,
    store::{self, Taken},
};
use chassis::inbox::{Handler, HandlingError, Message};
use contract::events::CreditDecision;

pub(super) struct Choreography;

impl Handler for Choreography {
    /// State guards every effect: a settled order never changes.
    const TAKES_REPLAYS: bool = true;

    async fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> Result<(), HandlingError> {
        let step =
            Step::caused_by(&message.event_type).ok_or_else(|| HandlingError::unknown_event(message))?;
        let CreditDecision { order_id, .. } = message.json()?;
        let mut taken = store::take(transaction, &message.trace, order_id, step, None).await?;
        if taken == Taken::NoOrder && store::is_there_by_now(transaction, order_id).await? {
            taken = store::take(transaction, &message.trace, order_id, step, None).await?;
        }
        match taken {
            Taken::Yes(order) => tracing::info!(order_id, state = order.state, "settled"),
            Taken::No(order) => tracing::info!(order_id, state = order.state, "the order was settled before"),
            Taken::NoOrder => return Err(HandlingError::Permanent(format!("there is no order {order_id}"))),
        }
        Ok(())
    }
}
