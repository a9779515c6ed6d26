//! The published language: what the services tell each other. Nothing else of one service is known to another.
//!
//! What an event cannot mean, such as a negative total, it cannot say: reading it fails, and each consumer puts it aside.

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::money::{self, Money};

/// Aggregate type of the orders' events.
pub const ORDER: &str = "Order";
/// An order was placed; a [`OrderEvent`].
pub const ORDER_CREATED: &str = "OrderCreated";
/// Its customer's credit was reserved for it; a [`OrderEvent`].
pub const ORDER_APPROVED: &str = "OrderApproved";
/// It could not be; a [`OrderEvent`] with its reason.
pub const ORDER_REJECTED: &str = "OrderRejected";
/// An approved order was cancelled; a [`OrderEvent`].
pub const ORDER_CANCELLED: &str = "OrderCancelled";

/// Aggregate type of the customers' events.
pub const CUSTOMER: &str = "Customer";
/// There is a new customer; a [`CustomerCreated`].
pub const CUSTOMER_CREATED: &str = "CustomerCreated";
/// Credit was reserved for an order; a [`CreditDecision`].
pub const CREDIT_RESERVED: &str = "CustomerCreditReserved";
/// Not enough credit was available for an order; a [`CreditDecision`].
pub const CREDIT_RESERVATION_FAILED: &str = "CustomerCreditReservationFailed";
/// An order named a customer that does not exist; a [`CreditDecision`].
pub const CUSTOMER_VALIDATION_FAILED: &str = "CustomerValidationFailed";

/// Payload of the orders' events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderEvent {
    /// The order.
    pub order_id: i64,
    /// What was ordered, by whom.
    pub order_details: OrderDetails,
    /// Of a rejected order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection_reason: Option<RejectionReason>,
}

/// What does not change about an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderDetails {
    /// Who ordered; may be unknown to the customer service.
    pub customer_id: i64,
    /// Price of the order: more than zero.
    #[serde(deserialize_with = "money::positive")]
    pub order_total: Money,
}

/// Why an order was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RejectionReason {
    /// The customer's available credit was less than the order's total.
    InsufficientCredit,
    /// There is no such customer.
    UnknownCustomer,
}

/// Payload of [`CUSTOMER_CREATED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomerCreated {
    /// The customer.
    pub customer_id: i64,
    /// Name of the customer, which [`name_problem`] has nothing against.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Limit of what approved orders may cost together: zero or more.
    #[serde(deserialize_with = "money::not_negative")]
    pub credit_limit: Money,
}

/// Payload of what the customer service has decided about an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreditDecision {
    /// The customer, as the order names it.
    pub customer_id: i64,
    /// The order.
    pub order_id: i64,
}

impl RejectionReason {
    /// As databases and JSON have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InsufficientCredit => "INSUFFICIENT_CREDIT",
            Self::UnknownCustomer => "UNKNOWN_CUSTOMER",
        }
    }
}

/// A customer's name has so many characters at most.
const NAME_MAX: usize = 200;

/// Reason why a text is no customer's name, if it is none.
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
