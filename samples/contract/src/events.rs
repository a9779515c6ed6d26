//! Events: the published language of the services. Services know nothing else of each other.
//!
//! Parsing refuses an invalid value, such as a negative total, and each consumer moves such an event to its dead
//! letters.

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::money::{self, Money};

/// Aggregate type of the orders' events.
pub const ORDER: &str = "Order";
/// An order was placed; an [`OrderEvent`].
pub const ORDER_CREATED: &str = "OrderCreated";
/// Credit was reserved for an order; an [`OrderEvent`].
pub const ORDER_APPROVED: &str = "OrderApproved";
/// Credit was not reserved for an order; an [`OrderEvent`] with the reason.
pub const ORDER_REJECTED: &str = "OrderRejected";
/// An approved order was cancelled; an [`OrderEvent`].
pub const ORDER_CANCELLED: &str = "OrderCancelled";

/// Aggregate type of the customers' events.
pub const CUSTOMER: &str = "Customer";
/// A customer was created; a [`CustomerCreated`].
pub const CUSTOMER_CREATED: &str = "CustomerCreated";
/// Credit was reserved for an order; a [`CreditDecision`].
pub const CREDIT_RESERVED: &str = "CustomerCreditReserved";
/// An order exceeded the available credit; a [`CreditDecision`].
pub const CREDIT_RESERVATION_FAILED: &str = "CustomerCreditReservationFailed";
/// An order named a customer that does not exist; a [`CreditDecision`].
pub const CUSTOMER_VALIDATION_FAILED: &str = "CustomerValidationFailed";

/// Payload of the orders' events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderEvent {
    /// The order.
    pub order_id: i64,
    /// Customer and total of the order.
    pub order_details: OrderDetails,
    /// Reason of a rejection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection_reason: Option<RejectionReason>,
}

/// Details of an order, which never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderDetails {
    /// Customer of the order. The customer service may not know it.
    pub customer_id: i64,
    /// Price of the order: more than zero.
    #[serde(deserialize_with = "money::positive")]
    pub order_total: Money,
}

/// Reason of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RejectionReason {
    /// The customer's available credit was less than the order's total.
    InsufficientCredit,
    /// The customer does not exist.
    UnknownCustomer,
}

/// Payload of [`CUSTOMER_CREATED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomerCreated {
    /// The customer.
    pub customer_id: i64,
    /// Name of the customer, valid by [`name_problem`].
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Limit of the total of approved orders: zero or more.
    #[serde(deserialize_with = "money::not_negative")]
    pub credit_limit: Money,
}

/// Payload of the customer service's decisions about orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreditDecision {
    /// The customer, as the order names it.
    pub customer_id: i64,
    /// The order.
    pub order_id: i64,
}

impl RejectionReason {
    /// Returns the name in databases and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::InsufficientCredit => "INSUFFICIENT_CREDIT",
            Self::UnknownCustomer => "UNKNOWN_CUSTOMER",
        }
    }
}

/// Most characters of a customer's name.
const NAME_MAX: usize = 200;

/// Returns the problem of an invalid customer's name.
pub fn name_problem(name: &str) -> Option<String> {
    if name.trim().is_empty() {
        return Some("name is empty".to_owned());
    }
    if name.chars().count() > NAME_MAX {
        return Some(format!("name is longer than {NAME_MAX} characters"));
    }
    name.chars().any(char::is_control).then(|| "name has control characters".to_owned())
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    name_problem(&name).map_or(Ok(name), |problem| Err(D::Error::custom(problem)))
}
