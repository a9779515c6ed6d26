//! Commands of the order service's sagas to the customer service, and the replies.

use chassis::{asyncapi::MessageType, saga::Outcome};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::money::{self, Money, OrderTotalSchema};

/// Channel of the commands to the customer service.
pub const CUSTOMER_COMMANDS: &str = "customer-service.commands";
/// Channel of the replies to the order service.
pub const ORDER_REPLIES: &str = "order-service.replies";

/// Command: reserve credit for an order; a [`ReserveCredit`].
pub const RESERVE_CREDIT: &str = "ReserveCredit";
/// Command: give back the credit that is reserved for an order; a [`ReleaseCredit`].
pub const RELEASE_CREDIT: &str = "ReleaseCredit";

/// Reply: credit is reserved for the order.
pub const CREDIT_RESERVED: &str = "CreditReserved";
/// Reply: there is no such customer.
pub const CUSTOMER_NOT_FOUND: &str = "CustomerNotFound";
/// Reply: the customer's available credit is less than the order's total.
pub const CREDIT_LIMIT_EXCEEDED: &str = "CreditLimitExceeded";
/// Reply: no credit is reserved for the order any more.
pub const CREDIT_RELEASED: &str = "CreditReleased";

/// Payload of [`RESERVE_CREDIT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReserveCredit {
    /// The customer who ordered.
    pub customer_id: i64,
    /// The order.
    pub order_id: i64,
    /// Price of the order: more than zero.
    #[serde(deserialize_with = "money::positive")]
    #[schema(value_type = OrderTotalSchema)]
    pub order_total: Money,
}

/// Payload of [`RELEASE_CREDIT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseCredit {
    /// The customer who ordered.
    pub customer_id: i64,
    /// The order.
    pub order_id: i64,
}

/// Payload of every reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreditReply {
    /// The customer, as the command names it.
    pub customer_id: i64,
    /// The order.
    pub order_id: i64,
}

/// Returns the descriptions of all commands and replies, with their examples.
pub fn messages() -> Vec<MessageType> {
    let (customer_id, order_id) = (1_764_362_400_000_001, 1_764_362_400_000_042);
    let order_total = Money::example(1_234);
    let command = CUSTOMER_COMMANDS;
    let reply = |name, summary, outcome| {
        MessageType::reply(ORDER_REPLIES, name, summary, outcome, &CreditReply { customer_id, order_id })
    };
    vec![
        MessageType::command(
            command,
            RESERVE_CREDIT,
            "Reserve credit for an order",
            &[CREDIT_RESERVED, CUSTOMER_NOT_FOUND, CREDIT_LIMIT_EXCEEDED],
            &ReserveCredit { customer_id, order_id, order_total },
        ),
        MessageType::command(
            command,
            RELEASE_CREDIT,
            "Give back the credit that is reserved for an order",
            &[CREDIT_RELEASED],
            &ReleaseCredit { customer_id, order_id },
        ),
        reply(CREDIT_RESERVED, "Credit is reserved for the order", Outcome::Success),
        reply(CUSTOMER_NOT_FOUND, "There is no such customer", Outcome::Failure),
        reply(
            CREDIT_LIMIT_EXCEEDED,
            "The customer's available credit is less than the order's total",
            Outcome::Failure,
        ),
        reply(CREDIT_RELEASED, "No credit is reserved for the order any more", Outcome::Success),
    ]
}
