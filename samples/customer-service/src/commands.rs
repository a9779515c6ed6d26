//! Commands of a saga: reserve credit, or release it. Each command gets a reply in the transaction that carries it out.

use tokio_postgres::Transaction;

use super::store::{self, Decision, Reserving};
use chassis::{
    inbox::{Handler, HandlingError, Message},
    saga::{Outcome, participant::Command},
};
use contract::{
    commands::{
        CREDIT_LIMIT_EXCEEDED, CREDIT_RELEASED, CREDIT_RESERVED, CUSTOMER_NOT_FOUND, CreditReply,
        ORDER_REPLIES, RELEASE_CREDIT, RESERVE_CREDIT, ReleaseCredit, ReserveCredit,
    },
    events::OrderDetails,
    repeated_id,
};

pub(super) struct Commands;

impl Handler for Commands {
    /// State guards every effect: a decision never changes.
    const TAKES_REPLAYS: bool = true;

    async fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> Result<(), HandlingError> {
        let command = Command::of(message, &[ORDER_REPLIES])?;
        match message.event_type.as_str() {
            RESERVE_CREDIT => {
                let ReserveCredit { customer_id, order_id, order_total } = message.json()?;
                let order = OrderDetails { customer_id, order_total };
                let decision = match store::reserve(transaction, order_id, &order).await? {
                    Reserving::Decided(decision) | Reserving::Again(decision) => decision,
                    Reserving::OtherOrder => return Err(repeated_id::of_order(order_id)),
                };
                tracing::info!(order_id, customer_id, ?decision, "decided");
                let (reply_type, outcome) = match decision {
                    Decision::Reserved => (CREDIT_RESERVED, Outcome::Success),
                    Decision::Insufficient => (CREDIT_LIMIT_EXCEEDED, Outcome::Failure),
                    Decision::UnknownCustomer => (CUSTOMER_NOT_FOUND, Outcome::Failure),
                    // A replay, long after the saga has had its reply.
                    Decision::Released if message.replayed => return Ok(()),
                    Decision::Released => {
                        return Err(HandlingError::Permanent(format!(
                            "the credit of order {order_id} was released before: this is a copy of an old command, or the order's id \
                             came again; nothing is reserved"
                        )));
                    }
                };
                command.reply(transaction, reply_type, outcome, &CreditReply { customer_id, order_id }).await
            }
            RELEASE_CREDIT => {
                let ReleaseCredit { customer_id, order_id } = message.json()?;
                let released = store::release_reserved(transaction, order_id, customer_id).await?;
                tracing::info!(order_id, customer_id, released, "released");
                let reply = CreditReply { customer_id, order_id };
                command.reply(transaction, CREDIT_RELEASED, Outcome::Success, &reply).await
            }
            _ => Err(HandlingError::unknown_event(message)),
        }
    }
}
