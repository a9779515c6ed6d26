//! View in PostgreSQL: two tables, changed in the transaction that handles the event. A rebuild replaces their rows in
//! its transaction, so there is only one generation.

use tokio_postgres::{IsolationLevel, Row};

use super::{Order, OrderHistory};
use chassis::{database::Database, http::Page, inbox::HandlingError};
use contract::{
    events::{CustomerCreated, OrderEvent, RejectionReason},
    repeated_id,
};
use projection::{Change, Place, State, Store};

/// An order may arrive before its customer. So nothing refers to `customers`, and a customer exists only after its
/// own event.
pub(super) const TABLES: &str = "
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
";

/// Script for reports: a role named after the service's own, with `_reader` behind it, may read customers and orders, and
/// nothing else (`config/history-reader.sql` creates one). It also grants tables that are created again.
pub(super) const READER: &str = "
DO $$
BEGIN
  IF to_regrole(quote_ident(current_user || '_reader')) IS NOT NULL THEN
    EXECUTE format('GRANT SELECT ON public.customers, public.orders TO %I', current_user || '_reader');
  END IF;
END $$;
";

/// The tables `customers` and `orders`.
#[derive(Clone, Copy, Debug)]
pub struct Postgres;

impl Store for Postgres {
    async fn apply(
        &self,
        Place { transaction, .. }: Place<'_>,
        change: &Change,
    ) -> Result<(), HandlingError> {
        match change {
            Change::Customer(CustomerCreated { customer_id, name, credit_limit }) => {
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
            Change::Order(OrderEvent { order_id, order_details, rejection_reason }, state) => {
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

    async fn clear(&self, Place { transaction, .. }: Place<'_>) -> Result<(), HandlingError> {
        Ok(transaction.batch_execute("DELETE FROM public.orders; DELETE FROM public.customers").await?)
    }

    async fn size(&self, Place { transaction, .. }: Place<'_>) -> Result<i64, HandlingError> {
        let select = "SELECT (SELECT count(*) FROM public.orders) + (SELECT count(*) FROM public.customers)";
        Ok(transaction.query_one(select, &[]).await?.get(0))
    }

    async fn keep_only(&self, _: i64) -> Result<(), HandlingError> {
        Ok(())
    }
}

fn is_same(row: Row) -> bool {
    row.get(0)
}

/// Returns a customer with a page of its orders.
pub(super) async fn history(
    database: &Database,
    customer_id: i64,
    state: Option<State>,
    page: Page,
) -> Result<Option<OrderHistory>, HandlingError> {
    let mut connection = database.connection().await?;
    // Customer and orders of one moment.
    let snapshot = connection.build_transaction().read_only(true);
    let snapshot = snapshot.isolation_level(IsolationLevel::RepeatableRead).start().await?;
    let select = "SELECT name, credit_limit FROM public.customers WHERE id = $1";
    let Some(customer) = snapshot.query_opt(select, &[&customer_id]).await? else { return Ok(None) };
    let select = "SELECT id, state, total, rejection_reason FROM public.orders \
                  WHERE customer_id = $1 AND id > $2 AND ($3::text IS NULL OR state = $3) ORDER BY id LIMIT $4";
    let state = state.map(State::name);
    let orders = snapshot.query(select, &[&customer_id, &page.after, &state, &page.limit]).await?;
    let orders = orders.iter().map(order).collect();
    snapshot.commit().await?;
    let (name, credit_limit) = (customer.get("name"), customer.get("credit_limit"));
    Ok(Some(OrderHistory { customer_id, name, credit_limit, orders }))
}

fn order(row: &Row) -> Order {
    Order {
        order_id: row.get("id"),
        state: row.get("state"),
        order_total: row.get("total"),
        rejection_reason: row.get("rejection_reason"),
    }
}
