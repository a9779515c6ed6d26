//! Store of customers and their reserved credit. The database enforces the limit.

use tokio_postgres::{GenericClient, Row, Transaction};

use chassis::{
    database::DatabaseError,
    http::Page,
    outbox::{self, Event},
    schema::Schema,
    trace::TraceContext,
};
use contract::{
    events::{
        CREDIT_RESERVATION_FAILED, CREDIT_RESERVED, CUSTOMER, CUSTOMER_CREATED, CUSTOMER_VALIDATION_FAILED,
        CreditDecision, CustomerCreated, OrderDetails,
    },
    money::Money,
};

/// `reserved` is the sum of the customer's rows in `credit` that are RESERVED. No transaction can leave it above the
/// limit.
///
/// `credit` has one row for each decided order. It outlives the reservation, so that a repeated or late event finds
/// its order decided.
///
/// Ids begin at the time at which the table was created, in microseconds since 1970: a new database repeats no id
/// that other services remember.
const MIGRATIONS: &[&str] = &["
CREATE TABLE public.customers (
  id           bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  name         text NOT NULL,
  credit_limit numeric(17, 4) NOT NULL CHECK (credit_limit >= 0),
  reserved     numeric(17, 4) NOT NULL DEFAULT 0 CHECK (reserved >= 0),
  CONSTRAINT credit_is_never_exceeded CHECK (reserved <= credit_limit)
);
CREATE TABLE public.credit (
  order_id    bigint PRIMARY KEY,
  customer_id bigint NOT NULL,
  amount      numeric(17, 4) NOT NULL CHECK (amount > 0),
  state       text NOT NULL CHECK (state IN ('RESERVED', 'REFUSED', 'RELEASED'))
);
SELECT setval(pg_get_serial_sequence('public.customers', 'id'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
"];

pub(super) const SCHEMA: Schema = Schema { migrations: MIGRATIONS, derived: &[] };

/// Decision about an order's credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Reserved,
    Insufficient,
    UnknownCustomer,
    /// The credit was reserved or never decided on, and the order has ended since.
    Released,
}

/// Outcome of an event about an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserving {
    /// The order is decided now.
    Decided(Decision),
    /// The order was decided before, by another message: the message is a copy under another id, or the order's id
    /// came again. The waiting service gets the decision again.
    Again(Decision),
    /// Another order with this id was decided before.
    OtherOrder,
}

/// Outcome of an order's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Releasing {
    /// The reserved credit is released.
    Released,
    /// Nothing was reserved.
    Nothing,
    /// The reserved credit belongs to another order with the same id.
    OtherOrder,
}

/// Creates a customer and returns its id.
pub(super) async fn create(
    transaction: &Transaction<'_>,
    trace: &TraceContext,
    name: String,
    credit_limit: Money,
) -> Result<i64, DatabaseError> {
    let insert = "INSERT INTO public.customers (name, credit_limit) VALUES ($1, $2) RETURNING id";
    let customer_id: i64 = transaction.query_one(insert, &[&name, &credit_limit]).await?.get(0);
    let payload = CustomerCreated { customer_id, name, credit_limit };
    let event = event(customer_id, CUSTOMER_CREATED, payload);
    outbox::append(transaction, trace, &event).await?;
    Ok(customer_id)
}

/// Decides about an order once.
///
/// The customer's row is locked: of two concurrent orders the second sees what the first has left.
pub(super) async fn reserve(
    transaction: &Transaction<'_>,
    order_id: i64,
    order: &OrderDetails,
) -> Result<Reserving, DatabaseError> {
    let &OrderDetails { customer_id, order_total } = order;
    let lock = "SELECT credit_limit - reserved >= $2 FROM public.customers WHERE id = $1 FOR UPDATE";
    let fits = transaction.query_opt(lock, &[&customer_id, &order_total]).await?.map(|row| row.get(0));
    let (decision, state) = match fits {
        Some(true) => (Decision::Reserved, "RESERVED"),
        Some(false) => (Decision::Insufficient, "REFUSED"),
        None => (Decision::UnknownCustomer, "REFUSED"),
    };
    let insert = "INSERT INTO public.credit (order_id, customer_id, amount, state) VALUES ($1, $2, $3, $4) \
                  ON CONFLICT DO NOTHING";
    let reserving =
        match transaction.execute(insert, &[&order_id, &customer_id, &order_total, &state]).await? {
            0 => decided_before(transaction, order_id, order, fits.is_some()).await?,
            _ => Reserving::Decided(decision),
        };
    if reserving == Reserving::Decided(Decision::Reserved) {
        let update = "UPDATE public.customers SET reserved = reserved + $2 WHERE id = $1";
        transaction.execute(update, &[&customer_id, &order_total]).await?;
    }
    Ok(reserving)
}

/// Writes the event of a decision, for who waits for it.
pub(super) async fn tell(
    transaction: &Transaction<'_>,
    trace: &TraceContext,
    order_id: i64,
    customer_id: i64,
    reserving: Reserving,
) -> Result<(), DatabaseError> {
    let event_type = match reserving {
        Reserving::Decided(decision) | Reserving::Again(decision) => decision.event_type(),
        Reserving::OtherOrder => None,
    };
    if let Some(event_type) = event_type {
        let payload = CreditDecision { customer_id, order_id };
        outbox::append(transaction, trace, &event(customer_id, event_type, payload)).await?;
    }
    Ok(())
}

fn event<P>(customer_id: i64, event_type: &'static str, payload: P) -> Event<P> {
    Event { aggregate_type: CUSTOMER, aggregate_id: customer_id, event_type, saga_type: None, payload }
}

/// Returns the earlier decision about an order.
async fn decided_before(
    transaction: &Transaction<'_>,
    order_id: i64,
    order: &OrderDetails,
    customer_is_known: bool,
) -> Result<Reserving, DatabaseError> {
    let select = "SELECT customer_id, amount, state FROM public.credit WHERE order_id = $1";
    let row = transaction.query_one(select, &[&order_id]).await?;
    if !is_of(&row, order) {
        return Ok(Reserving::OtherOrder);
    }
    Ok(Reserving::Again(match row.get("state") {
        "RESERVED" => Decision::Reserved,
        "RELEASED" => Decision::Released,
        _ if customer_is_known => Decision::Insufficient,
        _ => Decision::UnknownCustomer,
    }))
}

/// Tells whether a row of `credit` belongs to this order, and not to another with the same id.
fn is_of(row: &Row, order: &OrderDetails) -> bool {
    let (customer_id, amount): (i64, Money) = (row.get("customer_id"), row.get("amount"));
    (customer_id, amount) == (order.customer_id, order.order_total)
}

/// Releases an order's credit.
///
/// An undecided order counts as decided from now on: if its creation arrives after its end, it reserves nothing.
pub(super) async fn release(
    transaction: &Transaction<'_>,
    order_id: i64,
    order: &OrderDetails,
) -> Result<Releasing, DatabaseError> {
    let insert = "INSERT INTO public.credit (order_id, customer_id, amount, state) VALUES ($1, $2, $3, 'RELEASED') \
                  ON CONFLICT DO NOTHING";
    if transaction.execute(insert, &[&order_id, &order.customer_id, &order.order_total]).await? == 1 {
        return Ok(Releasing::Nothing);
    }
    let select = "SELECT customer_id, amount, state FROM public.credit WHERE order_id = $1 FOR UPDATE";
    let row = transaction.query_one(select, &[&order_id]).await?;
    if !is_of(&row, order) {
        return Ok(Releasing::OtherOrder);
    }
    let released = release_reserved(transaction, order_id, order.customer_id).await?;
    Ok(if released { Releasing::Released } else { Releasing::Nothing })
}

/// Gives back what is reserved for an order of this customer; says whether anything was.
pub(super) async fn release_reserved(
    transaction: &Transaction<'_>,
    order_id: i64,
    customer_id: i64,
) -> Result<bool, DatabaseError> {
    let update = "UPDATE public.credit SET state = 'RELEASED' \
                  WHERE order_id = $1 AND customer_id = $2 AND state = 'RESERVED' RETURNING amount";
    let Some(row) = transaction.query_opt(update, &[&order_id, &customer_id]).await? else {
        return Ok(false);
    };
    let amount: Money = row.get("amount");
    let update = "UPDATE public.customers SET reserved = reserved - $2 WHERE id = $1";
    transaction.execute(update, &[&customer_id, &amount]).await?;
    Ok(true)
}

/// Returns a customer.
pub(super) async fn find(
    client: &impl GenericClient,
    id: i64,
) -> Result<Option<CustomerCreated>, DatabaseError> {
    let select = "SELECT id, name, credit_limit FROM public.customers WHERE id = $1";
    Ok(client.query_opt(select, &[&id]).await?.as_ref().map(customer))
}

/// Returns a page of customers, ordered by id.
pub(super) async fn list(
    client: &impl GenericClient,
    page: Page,
) -> Result<Vec<CustomerCreated>, DatabaseError> {
    let select = "SELECT id, name, credit_limit FROM public.customers WHERE id > $1 ORDER BY id LIMIT $2";
    Ok(client.query(select, &[&page.after, &page.limit]).await?.iter().map(customer).collect())
}

fn customer(row: &Row) -> CustomerCreated {
    CustomerCreated {
        customer_id: row.get("id"),
        name: row.get("name"),
        credit_limit: row.get("credit_limit"),
    }
}

impl Decision {
    fn event_type(self) -> Option<&'static str> {
        match self {
            Self::Reserved => Some(CREDIT_RESERVED),
            Self::Insufficient => Some(CREDIT_RESERVATION_FAILED),
            Self::UnknownCustomer => Some(CUSTOMER_VALIDATION_FAILED),
            Self::Released => None,
        }
    }
}
