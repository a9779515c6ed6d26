//! Bodies of requests: a service takes them, and the gateway passes them on.

use chassis::http::whole;
use serde::Deserialize;
use utoipa::ToSchema;

use super::money::{CreditLimitSchema, Money, OrderTotalSchema};

/// Body of customer-service's `POST /customers`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateCustomer {
    /// 1 to 200 characters, not all blank, no control characters.
    #[schema(
        required,
        nullable = false,
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    pub name: Option<String>,
    /// Limit of the total of approved orders: zero or more.
    #[schema(value_type = CreditLimitSchema)]
    pub credit_limit: Option<Money>,
}

/// Body of order-service's `POST /orders`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlaceOrder {
    /// Customer of the order.
    #[serde(default, deserialize_with = "whole")]
    #[schema(required, nullable = false)]
    pub customer_id: Option<i64>,
    /// Total of the order: more than zero.
    #[schema(value_type = OrderTotalSchema)]
    pub order_total: Option<Money>,
}
