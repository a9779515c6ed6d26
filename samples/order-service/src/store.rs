//! Store of orders. Every change is committed with its event.

use tokio_postgres::{GenericClient, Row, Transaction};

use super::order::{OrderState, Step};
use chassis::{
    database::DatabaseError,
    http::Page,
    outbox::{self, Event},
    saga,
    schema::Schema,
    trace::TraceContext,
};
use contract::events::{ORDER, ORDER_CREATED, OrderDetails, OrderEvent};

/// Ids begin at the time at which the table was created, in microseconds since 1970: a new database repeats no id
/// that other services remember.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE public.orders (
  id               bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  customer_id      bigint NOT NULL,
  total            numeric(17, 4) NOT NULL CHECK (total > 0),
  state            text NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'APPROVED', 'REJECTED', 'CANCELLED')),
  rejection_reason text CHECK (rejection_reason IN ('INSUFFICIENT_CREDIT', 'UNKNOWN_CUSTOMER')),
  CHECK ((state = 'REJECTED') = (rejection_reason IS NOT NULL))
);
SELECT setval(pg_get_serial_sequence('public.orders', 'id'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
",
    saga::TABLES,
    "CREATE INDEX saga_of_order ON public.saga (((data ->> 'orderId')::bigint), id);",
    "CREATE INDEX orders_of_customer ON public.orders (customer_id, id);",
];

pub(super) const SCHEMA: Schema = Schema { migrations: MIGRATIONS, derived: &[] };

/// Order as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) id: i64,
    pub(super) details: OrderDetails,
    /// Name of the state. The table allows no other text.
    pub(super) state: String,
    pub(super) rejection_reason: Option<String>,
}

/// Result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The order has the new state, and the event is written.
    Yes(Order),
    /// The step does not apply to the order's state. Nothing has changed.
    No(Order),
    /// The order does not exist.
    NoOrder,
}

/// Places an order and returns its id. `saga_type`: type of the saga that coordinates it.
pub(super) async fn place(
    transaction: &Transaction<'_>,
    trace: &TraceContext,
    order: OrderDetails,
    saga_type: Option<&'static str>,
) -> Result<i64, DatabaseError> {
    let insert = "INSERT INTO public.orders (customer_id, total) VALUES ($1, $2) RETURNING id";
    let order_id: i64 =
        transaction.query_one(insert, &[&order.customer_id, &order.order_total]).await?.get(0);
    let payload = OrderEvent { order_id, order_details: order, rejection_reason: None };
    let event = Event {
        aggregate_type: ORDER,
        aggregate_id: order_id,
        event_type: ORDER_CREATED,
        saga_type,
        payload,
    };
    outbox::append(transaction, trace, &event).await?;
    Ok(order_id)
}

/// Applies a step to an order, if its state allows. The row stays locked until the end of the transaction: of two
/// concurrent steps the second sees the result of the first.
pub(super) async fn take(
    transaction: &Transaction<'_>,
    trace: &TraceContext,
    id: i64,
    step: Step,
    saga_type: Option<&'static str>,
) -> Result<Taken, DatabaseError> {
    let select =
        "SELECT id, customer_id, total, state, rejection_reason FROM public.orders WHERE id = $1 FOR UPDATE";
    let Some(row) = transaction.query_opt(select, &[&id]).await? else { return Ok(Taken::NoOrder) };
    let order = Order::from(&row);
    let Some(state) = OrderState::named(&order.state).and_then(|state| state.after(step)) else {
        return Ok(Taken::No(order));
    };
    let rejection_reason = step.rejection_reason();
    let reason = rejection_reason.map(|reason| reason.name());
    let update = "UPDATE public.orders SET state = $2, rejection_reason = $3 WHERE id = $1";
    transaction.execute(update, &[&id, &state.name(), &reason]).await?;
    let event = Event {
        aggregate_type: ORDER,
        aggregate_id: id,
        event_type: step.event_type(),
        saga_type,
        payload: OrderEvent { order_id: id, order_details: order.details.clone(), rejection_reason },
    };
    outbox::append(transaction, trace, &event).await?;
    let (state, rejection_reason) = (state.name().to_owned(), reason.map(str::to_owned));
    Ok(Taken::Yes(Order { state, rejection_reason, ..order }))
}

/// Waits for the order's own transaction if it has not ended, and tells whether the order exists.
///
/// An event may overtake the transaction that caused it: PostgreSQL decodes a transaction as soon as its commit is in
/// WAL, and shows its rows a moment later (with a synchronous standby, after its answer). A SELECT does not see such
/// a row, but an INSERT with its key waits to learn whether it conflicts. In the end nothing is inserted.
pub(super) async fn is_there_by_now(
    transaction: &mut Transaction<'_>,
    id: i64,
) -> Result<bool, DatabaseError> {
    let attempt = transaction.transaction().await?;
    let insert = "INSERT INTO public.orders (id, customer_id, total) OVERRIDING SYSTEM VALUE VALUES ($1, 0, 1) \
                  ON CONFLICT DO NOTHING";
    let inserted = attempt.execute(insert, &[&id]).await?;
    attempt.rollback().await?;
    Ok(inserted == 0)
}

/// Returns the id of the latest saga that coordinates an order.
pub(super) async fn saga_of(client: &impl GenericClient, id: i64) -> Result<Option<i64>, DatabaseError> {
    let select =
        "SELECT id FROM public.saga WHERE (data ->> 'orderId')::bigint = $1 ORDER BY id DESC LIMIT 1";
    Ok(client.query_opt(select, &[&id]).await?.map(|row| row.get(0)))
}

/// Returns an order.
pub(super) async fn find(client: &impl GenericClient, id: i64) -> Result<Option<Order>, DatabaseError> {
    let select = "SELECT id, customer_id, total, state, rejection_reason FROM public.orders WHERE id = $1";
    Ok(client.query_opt(select, &[&id]).await?.as_ref().map(Order::from))
}

/// Returns a page of orders, of one customer or all, ordered by id.
pub(super) async fn list(
    client: &impl GenericClient,
    customer_id: Option<i64>,
    page: Page,
) -> Result<Vec<Order>, DatabaseError> {
    // Two statements, each with an index of its own.
    let rows = match customer_id {
        Some(customer_id) => {
            let select = "SELECT id, customer_id, total, state, rejection_reason FROM public.orders \
                          WHERE customer_id = $3 AND id > $1 ORDER BY id LIMIT $2";
            client.query(select, &[&page.after, &page.limit, &customer_id]).await?
        }
        None => {
            let select = "SELECT id, customer_id, total, state, rejection_reason FROM public.orders \
                          WHERE id > $1 ORDER BY id LIMIT $2";
            client.query(select, &[&page.after, &page.limit]).await?
        }
    };
    Ok(rows.iter().map(Order::from).collect())
}

impl From<&Row> for Order {
    fn from(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            details: OrderDetails { customer_id: row.get("customer_id"), order_total: row.get("total") },
            state: row.get("state"),
            rejection_reason: row.get("rejection_reason"),
        }
    }
}
