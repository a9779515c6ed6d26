//! The service that takes orders: it changes its own table and writes what happened to the outbox, in one transaction.
//! It knows nothing of outboxd and of RabbitMQ.

use super::support::{Committed, Oracle};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio_postgres::{Client, Error};

/// The service's own table. The outbox is printed by `outboxd schema`.
pub(crate) const ORDERS_TABLE: &str =
    "CREATE TABLE orders (id text PRIMARY KEY, state text NOT NULL, version bigint NOT NULL DEFAULT 0)";

/// A transaction of the first, slow part.
pub(crate) struct Transaction {
    order: &'static str,
    /// Event type and payload.
    events: &'static [(&'static str, &'static str)],
    commits: bool,
}

/// A row that was inserted into the outbox.
pub(crate) struct Row {
    pub(crate) id: String,
    /// Numbered from 1.
    pub(crate) transaction: u64,
    pub(crate) order: &'static str,
    pub(crate) event: &'static str,
    pub(crate) payload: String,
    pub(crate) committed: bool,
}

/// Two events in one transaction, an order whose story goes on later, and one that never came to be.
pub(crate) const STORY: [Transaction; 5] = [
    Transaction { order: "1001", events: &[("OrderCreated", r#"{"total": 120}"#)], commits: true },
    Transaction { order: "1002", events: &[("OrderCreated", r#"{"total": 35}"#)], commits: true },
    Transaction {
        order: "1001",
        events: &[("OrderPaid", r#"{"by": "card"}"#), ("OrderShipped", r#"{"parcels": 2}"#)],
        commits: true,
    },
    Transaction { order: "1003", events: &[("OrderCreated", r#"{"total": 980}"#)], commits: false },
    Transaction { order: "1002", events: &[("OrderCancelled", r#"{"refund": 35}"#)], commits: true },
];

/// Concurrent connections of the burst.
pub(crate) const WRITERS: u64 = 4;
/// Transactions of the burst, those rolled back included; each writes one to five rows.
pub(crate) const TRANSACTIONS: u64 = 6_000;
/// The orders that they change.
pub(crate) const ORDERS: u64 = 50;

/// Runs the story, tells the oracle what was committed, and returns every row, rolled back or not.
pub(crate) async fn tell(client: &mut Client, oracle: &Oracle) -> Result<Vec<Row>, Error> {
    let mut rows: Vec<Row> = Vec::new();
    for (number, step) in (1..).zip(&STORY) {
        let transaction = client.transaction().await?;
        let first = rows.len();
        for (event, payload) in step.events {
            let change = "INSERT INTO orders (id, state) VALUES ($1, $2) \
                          ON CONFLICT (id) DO UPDATE SET state = $2, version = orders.version + 1";
            transaction.execute(change, &[&step.order, event]).await?;
            let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers) \
                          VALUES ('Order', $1, $2, $3::text::jsonb, '{\"tenant\": \"acme\"}') \
                          RETURNING id::text, payload::text";
            let written = transaction.query_one(insert, &[&step.order, event, payload]).await?;
            rows.push(Row {
                id: written.get(0),
                transaction: number,
                order: step.order,
                event,
                payload: written.get(1),
                committed: step.commits,
            });
        }
        if !step.commits {
            transaction.rollback().await?;
            continue;
        }
        transaction.commit().await?;
        oracle.committed((first..rows.len()).map(|index| Committed {
            id: rows[index].id.clone(),
            aggregate: step.order.to_owned(),
            sequence: index as i64,
            transaction: number,
            index: index - first,
            body: rows[index].payload.clone(),
        }));
    }
    Ok(rows)
}

/// Creates the orders of the burst.
pub(crate) async fn open(client: &Client) -> Result<(), Error> {
    let insert =
        format!("INSERT INTO orders SELECT 'b' || n, 'OrderChanged' FROM generate_series(1, {ORDERS}) n");
    client.batch_execute(&insert).await
}

/// One writer of the burst: takes transactions by number until none is left. Returns how many it rolled back.
pub(crate) async fn hurry(
    mut client: Client,
    writer: u64,
    next: Arc<AtomicU64>,
    oracle: Oracle,
) -> Result<usize, Error> {
    let mut random = fastrand::Rng::with_seed(writer);
    let mut rolled_back = 0;
    // The row lock that the update takes makes commit order per order the order of its versions.
    let update = "UPDATE orders SET version = version + $2 WHERE id = $1 RETURNING version";
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
                  SELECT 'Order', $1::text, 'OrderChanged', jsonb_build_object('version', version) \
                  FROM generate_series($2::bigint, $3::bigint) AS version \
                  RETURNING id::text, payload::text";
    let (update, insert) = (client.prepare(update).await?, client.prepare(insert).await?);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= TRANSACTIONS {
            return Ok(rolled_back);
        }
        let order = format!("b{}", random.u64(1..=ORDERS));
        let events = random.i64(1..=5);
        let transaction = client.transaction().await?;
        let last: i64 = transaction.query_one(&update, &[&order, &events]).await?.get(0);
        let first = last - events + 1;
        let written = transaction.query(&insert, &[&order, &first, &last]).await?;
        if random.u8(0..100) < 5 {
            transaction.rollback().await?;
            rolled_back += 1;
            continue;
        }
        transaction.commit().await?;
        oracle.committed(written.iter().zip(first..).enumerate().map(|(index, (row, version))| Committed {
            id: row.get(0),
            aggregate: order.clone(),
            sequence: version,
            // After the numbers of the story.
            transaction: 1_000 + number,
            index,
            body: row.get(1),
        }));
    }
}
