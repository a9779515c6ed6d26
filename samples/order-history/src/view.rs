//! View: the effect of an event. The final view is the same for any repetition of events and any interleaving of the
//! two streams.

use tokio_postgres::{Row, Transaction};

use chassis::{
    inbox::{HandlingError, payload},
    schema::Schema,
};
use contract::{
    events::{
        CUSTOMER_CREATED, CustomerCreated, ORDER_APPROVED, ORDER_CANCELLED, ORDER_CREATED, ORDER_REJECTED,
        OrderEvent, RejectionReason,
    },
    repeated_id,
};

/// An order may arrive before its customer. So nothing refers to `customers`, and a customer exists only after its
/// own event.
///
/// `events` retains every event for `rebuild`, and `streams` each stream's progress. Positions compare byte by byte.
///
/// A role named after the service's own, with `_reader` behind it, may read customers and orders, and nothing else
/// (`config/history-reader.sql` creates one). The last script grants that, also to tables that are created again.
const MIGRATIONS: &[&str] = &["
CREATE TABLE IF NOT EXISTS public.customers (
  id           bigint PRIMARY KEY,
  name         text NOT NULL,
  credit_limit numeric(17, 4) NOT NULL
);
CREATE TABLE IF NOT EXISTS public.orders (
  id               bigint PRIMARY KEY,
  customer_id      bigint NOT NULL,
  total            numeric(17, 4) NOT NULL,
  state            text NOT NULL,
  state_rank       smallint NOT NULL,
  rejection_reason text
);
CREATE INDEX IF NOT EXISTS orders_of_customer ON public.orders (customer_id, id);
CREATE TABLE IF NOT EXISTS public.events (
  seq        bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  message_id text NOT NULL UNIQUE,
  event_type text NOT NULL,
  body       bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS public.streams (
  stream       text PRIMARY KEY,
  source       text NOT NULL,
  position     text COLLATE \"C\" NOT NULL,
  committed_at bigint
);
", "
ALTER TABLE public.events ADD COLUMN IF NOT EXISTS source text NOT NULL DEFAULT '', DROP CONSTRAINT IF EXISTS events_message_id_key;
CREATE UNIQUE INDEX IF NOT EXISTS events_message ON public.events (source, message_id);
", "
DO $$
BEGIN
  IF to_regrole(quote_ident(current_user || '_reader')) IS NOT NULL THEN
    EXECUTE format('GRANT SELECT ON public.customers, public.orders TO %I', current_user || '_reader');
  END IF;
END $$;
"];

/// All tables derive from the two streams, so all may be dropped.
pub(super) const SCHEMA: Schema =
    Schema { migrations: MIGRATIONS, derived: &["customers", "orders", "events", "streams"] };

/// State of an order, as far as events have told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum State {
    Pending,
    Approved,
    Rejected,
    Cancelled,
}

/// Change of the view.
pub(super) enum Change {
    Customer(CustomerCreated),
    Order(OrderEvent, State),
}

impl State {
    pub(super) const ALL: [Self; 4] = [Self::Pending, Self::Approved, Self::Rejected, Self::Cancelled];

    /// Returns the name in the database and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Approved => "APPROVED",
            Self::Rejected => "REJECTED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Returns the rank of a state. An order never goes back to a lower one, and none is both approved and rejected.
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
    /// Parses an event.
    ///
    /// # Errors
    ///
    /// A permanent [`HandlingError`] when the view does not use the event.
    pub(super) fn of(event_type: &str, body: &[u8]) -> Result<Self, HandlingError> {
        if event_type == CUSTOMER_CREATED {
            return payload(event_type, body).map(Self::Customer);
        }
        let state = State::after(event_type)
            .ok_or_else(|| HandlingError::Permanent(format!("unknown event type '{event_type}'")))?;
        let event: OrderEvent = payload(event_type, body)?;
        match (state == State::Rejected, event.rejection_reason) {
            (true, None) => Err(contradictory(event_type, "without a rejectionReason")),
            (false, Some(_)) => Err(contradictory(event_type, "with a rejectionReason")),
            _ => Ok(Self::Order(event, state)),
        }
    }

    /// Applies the change, unless the view is as far or further.
    ///
    /// # Errors
    ///
    /// [`HandlingError`], permanent also when the view has another customer or order with this id.
    pub(super) async fn apply(&self, transaction: &Transaction<'_>) -> Result<(), HandlingError> {
        match self {
            Self::Customer(CustomerCreated { customer_id, name, credit_limit }) => {
                let insert = "INSERT INTO public.customers (id, name, credit_limit) VALUES ($1, $2, $3) \
                              ON CONFLICT DO NOTHING";
                let inserted = transaction.execute(insert, &[customer_id, name, credit_limit]).await?;
                let same = "SELECT name = $2 AND credit_limit = $3 FROM public.customers WHERE id = $1";
                if inserted == 0
                    && !is_same(transaction.query_one(same, &[customer_id, name, credit_limit]).await?)
                {
                    return Err(repeated_id::of_customer(*customer_id));
                }
            }
            Self::Order(OrderEvent { order_id, order_details, rejection_reason }, state) => {
                let upsert = "INSERT INTO public.orders (id, customer_id, total, state, state_rank, rejection_reason) \
                              VALUES ($1, $2, $3, $4, $5, $6) \
                              ON CONFLICT (id) DO UPDATE SET state = excluded.state, \
                                state_rank = excluded.state_rank, rejection_reason = excluded.rejection_reason \
                              WHERE orders.state_rank < excluded.state_rank \
                                AND orders.customer_id = excluded.customer_id AND orders.total = excluded.total";
                let (customer, total) = (&order_details.customer_id, &order_details.order_total);
                let reason = rejection_reason.map(RejectionReason::name);
                let changed = transaction
                    .execute(upsert, &[order_id, customer, total, &state.name(), &state.rank(), &reason])
                    .await?;
                let same = "SELECT customer_id = $2 AND total = $3 FROM public.orders WHERE id = $1";
                if changed == 0 && !is_same(transaction.query_one(same, &[order_id, customer, total]).await?)
                {
                    return Err(repeated_id::of_order(*order_id));
                }
            }
        }
        Ok(())
    }
}

fn is_same(row: Row) -> bool {
    row.get(0)
}

fn contradictory(event_type: &str, what: &str) -> HandlingError {
    HandlingError::Permanent(format!("the body is not a valid {event_type}: {what}"))
}
