//! What an event does to the view. However often the events come, and however the two streams are interleaved, the view in the
//! end is the same.

use tokio_postgres::Transaction;

use crate::{
    chassis::{
        database::DatabaseError,
        inbox::{HandlingError, payload},
    },
    samples::events::{
        CUSTOMER_CREATED, CustomerCreated, ORDER_APPROVED, ORDER_CANCELLED, ORDER_CREATED, ORDER_REJECTED,
        OrderEvent, RejectionReason,
    },
};

/// An order may be there before its customer: so nothing refers to `customers`, and a customer is there only when its own
/// event has come.
///
/// `events` retains every event for `rebuild`, and `streams` how far each stream has come. Positions compare byte by byte.
pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE customers (
  id           bigint PRIMARY KEY,
  name         text NOT NULL,
  credit_limit numeric(17, 4) NOT NULL
);
CREATE TABLE orders (
  id               bigint PRIMARY KEY,
  customer_id      bigint NOT NULL,
  total            numeric(17, 4) NOT NULL,
  state            text NOT NULL,
  state_rank       smallint NOT NULL,
  rejection_reason text
);
CREATE INDEX orders_of_customer ON orders (customer_id, id);
CREATE TABLE events (
  seq        bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  message_id text NOT NULL UNIQUE,
  event_type text NOT NULL,
  body       bytea NOT NULL
);
CREATE TABLE streams (
  stream       text PRIMARY KEY,
  source       text NOT NULL,
  position     text COLLATE \"C\" NOT NULL,
  committed_at bigint
);
"];

/// Where an order stands, as far as events have told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum State {
    Pending,
    Approved,
    Rejected,
    Cancelled,
}

/// A change of the view.
pub(super) enum Change {
    Customer(CustomerCreated),
    Order(OrderEvent, State),
}

impl State {
    pub(super) const ALL: [Self; 4] = [Self::Pending, Self::Approved, Self::Rejected, Self::Cancelled];

    /// As the database and JSON have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Approved => "APPROVED",
            Self::Rejected => "REJECTED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// How far into its life an order is: it never goes back. No order is both approved and rejected.
    fn rank(self) -> i16 {
        match self {
            Self::Pending => 0,
            Self::Approved | Self::Rejected => 1,
            Self::Cancelled => 2,
        }
    }

    fn after(event_type: &str) -> Option<Self> {
        match event_type {
            ORDER_CREATED => Some(Self::Pending),
            ORDER_APPROVED => Some(Self::Approved),
            ORDER_REJECTED => Some(Self::Rejected),
            ORDER_CANCELLED => Some(Self::Cancelled),
            _ => None,
        }
    }
}

impl Change {
    /// What an event says.
    ///
    /// # Errors
    ///
    /// Permanent: the event is none of those that the view is made of.
    pub(super) fn of(event_type: &str, body: &[u8]) -> Result<Self, HandlingError> {
        if event_type == CUSTOMER_CREATED {
            return payload(event_type, body).map(Self::Customer);
        }
        let state = State::after(event_type)
            .ok_or_else(|| HandlingError::Permanent(format!("unknown event type '{event_type}'")))?;
        payload(event_type, body).map(|event| Self::Order(event, state))
    }

    /// Changes the view, unless it is as far or further already.
    pub(super) async fn apply(&self, transaction: &Transaction<'_>) -> Result<(), DatabaseError> {
        match self {
            Self::Customer(CustomerCreated { customer_id, name, credit_limit }) => {
                let insert = "INSERT INTO customers (id, name, credit_limit) VALUES ($1, $2, $3) \
                              ON CONFLICT DO NOTHING";
                transaction.execute(insert, &[customer_id, name, credit_limit]).await?;
            }
            Self::Order(OrderEvent { order_id, order_details, rejection_reason }, state) => {
                let upsert = "INSERT INTO orders (id, customer_id, total, state, state_rank, rejection_reason) \
                              VALUES ($1, $2, $3, $4, $5, $6) \
                              ON CONFLICT (id) DO UPDATE SET state = excluded.state, \
                                state_rank = excluded.state_rank, rejection_reason = excluded.rejection_reason \
                              WHERE orders.state_rank < excluded.state_rank";
                let (customer, total) = (&order_details.customer_id, &order_details.order_total);
                let reason = rejection_reason.map(RejectionReason::name);
                transaction
                    .execute(upsert, &[order_id, customer, total, &state.name(), &state.rank(), &reason])
                    .await?;
            }
        }
        Ok(())
    }
}
