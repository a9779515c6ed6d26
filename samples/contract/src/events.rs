//! Events: the published language of the services. Services know nothing else of each other.
//!
//! Parsing refuses an invalid value, such as a negative total, and each consumer moves such an event to its dead
//! letters.

use chassis::asyncapi::MessageType;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use utoipa::ToSchema;

use super::money::{self, CreditLimitSchema, Money, OrderTotalSchema};

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderEvent {
    /// The order.
    pub order_id: i64,
    /// Customer and total of the order.
    pub order_details: OrderDetails,
    /// Reason of a rejection.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rejection_reason: Option<RejectionReason>,
}

/// Details of an order, which never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderDetails {
    /// Customer of the order. The customer service may not know it.
    pub customer_id: i64,
    /// Price of the order: more than zero.
    #[serde(deserialize_with = "money::positive")]
    #[schema(value_type = OrderTotalSchema)]
    pub order_total: Money,
}

/// Reason of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RejectionReason {
    /// The customer's available credit was less than the order's total.
    InsufficientCredit,
    /// The customer does not exist.
    UnknownCustomer,
}

/// Payload of [`CUSTOMER_CREATED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomerCreated {
    /// The customer.
    pub customer_id: i64,
    /// Name of the customer: 1 to 200 characters, not all blank, no control characters.
    #[serde(deserialize_with = "name")]
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub name: String,
    /// Limit of the total of approved orders: zero or more.
    #[serde(deserialize_with = "money::not_negative")]
    #[schema(value_type = CreditLimitSchema)]
    pub credit_limit: Money,
}

/// Payload of the customer service's decisions about orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreditDecision {
    /// The customer, as the order names it.
    pub customer_id: i64,
    /// The order.
    pub order_id: i64,
}

/// Returns the descriptions of all events, with their examples.
pub fn messages() -> Vec<MessageType> {
    const ORDER_ID: i64 = 1_764_362_400_000_042;
    const CUSTOMER_ID: i64 = 1_764_362_400_000_001;
    const REASON: &str = "rejectionReason";
    let order = |name, summary, rejection_reason| {
        let order_details = OrderDetails { customer_id: CUSTOMER_ID, order_total: Money::example(1_234) };
        let example = OrderEvent { order_id: ORDER_ID, order_details, rejection_reason };
        MessageType::event(ORDER, name, summary, &example)
    };
    let decision = |name, summary| {
        let example = CreditDecision { customer_id: CUSTOMER_ID, order_id: ORDER_ID };
        MessageType::event(CUSTOMER, name, summary, &example)
    };
    let customer = CustomerCreated {
        customer_id: CUSTOMER_ID,
        name: "Ada".to_owned(),
        credit_limit: Money::example(100_000),
    };
    let reason = Some(RejectionReason::InsufficientCredit);
    vec![
        order(ORDER_CREATED, "An order was placed, and waits for its customer's credit", None).never(REASON),
        order(ORDER_APPROVED, "Credit was reserved for an order", None).never(REASON),
        order(ORDER_REJECTED, "Credit was not reserved for an order", reason).always(REASON),
        order(ORDER_CANCELLED, "An approved order was cancelled", None).never(REASON),
        MessageType::event(CUSTOMER, CUSTOMER_CREATED, "A customer was created", &customer),
        decision(CREDIT_RESERVED, "Credit was reserved for an order"),
        decision(CREDIT_RESERVATION_FAILED, "An order exceeded the customer's available credit"),
        decision(CUSTOMER_VALIDATION_FAILED, "An order named a customer that does not exist"),
    ]
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
