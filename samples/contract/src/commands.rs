//! Commands of the order service's sagas to the customer service, and the replies.

use serde::{Deserialize, Serialize};

use super::money::{self, Money};

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReserveCredit {
    /// The customer who ordered.
    pub customer_id: i64,
    /// The order.
    pub order_id: i64,
    /// Price of the order: more than zero.
    #[serde(deserialize_with = "money::positive")]
    pub order_total: Money,
}

/// Payload of [`RELEASE_CREDIT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseCredit {
    /// The customer who ordered.
    pub customer_id: i64,
    /// The order.
    pub order_id: i64,
}

/// Payload of every reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreditReply {
    /// The customer, as the command names it.
    pub customer_id: i64,
    /// The order.
    pub order_id: i64,
}
