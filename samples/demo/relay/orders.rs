//! Order service of the demo: changes its table and writes events to the outbox in one transaction. Knows neither
//! outboxd nor RabbitMQ.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use testkit::{Committed, Oracle};
use tokio::time::sleep;
use tokio_postgres::{Client, Error};

/// Table of the service. `outboxd schema` prints the outbox.
pub(crate) const ORDERS_TABLE: &str =
    "CREATE TABLE orders (id text PRIMARY KEY, state text NOT NULL, version bigint NOT NULL DEFAULT 0)";

/// Transaction of the first, slow part.
pub(crate) struct Transaction {
    order: &'static str,
    /// Event type and payload.
    events: &'static [(&'static str, &'static str)],
    commits: bool,
}

/// Row of the outbox.
pub(crate) struct Row {
    pub(crate) id: String,
    /// Number of the transaction, from 1.
    pub(crate) transaction: u64,
    pub(crate) order: &'static str,
    pub(crate) event: &'static str,
    pub(crate) payload: String,
    pub(crate) committed: bool,
}

/// Two events in one transaction, an order that continues later, and a transaction that rolls back.
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
/// Orders that the connections change.
pub(crate) const ORDERS: usize = 1_000;
/// Most orders of a transaction, with one outbox row each.
pub(crate) const ROWS_MAX: usize = 4;
/// Percentage of transactions that roll back.
const ROLLED_BACK_PERCENT: u8 = 5;
/// Pause between two transactions, so that the daemon can follow.
const PAUSE: Duration = Duration::from_millis(1);

/// Runs the story, reports committed rows to the oracle, and returns every row, rolled back or not.
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

/// Runs a writer of the burst until `enough`, and returns the number of its rolled-back transactions.
pub(crate) async fn hurry(
    mut client: Client,
    writer: u64,
    enough: Arc<AtomicBool>,
    oracle: Oracle,
) -> Result<usize, Error> {
    let mut random = fastrand::Rng::with_seed(writer);
    let mut rolled_back = 0;
    // The update locks its row until the commit, so the commit order of an order is that of its versions.
    let update =
        client.prepare("UPDATE orders SET version = version + 1 WHERE id = $1 RETURNING version").await?;
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
                  VALUES ('Order', $1, 'OrderChanged', jsonb_build_object('version', $2::bigint)) \
                  RETURNING id::text, payload::text";
    let insert = client.prepare(insert).await?;
    // Each writer has its own numbers, above those of the story.
    for number in (1..).map(|number| number * 1_000 + writer) {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        // Sorted, so that no two transactions deadlock.
        let orders: BTreeSet<usize> =
            (0..random.usize(1..=ROWS_MAX)).map(|_| random.usize(1..=ORDERS)).collect();
        let transaction = client.transaction().await?;
        let mut rows = Vec::new();
        for (index, order) in orders.into_iter().map(|order| format!("b{order}")).enumerate() {
            let version: i64 = transaction.query_one(&update, &[&order]).await?.get(0);
            let written = transaction.query_one(&insert, &[&order, &version]).await?;
            let (id, body) = (written.get(0), written.get(1));
            rows.push(Committed {
                id,
                aggregate: order,
                sequence: version,
                transaction: number,
                index,
                body,
            });
        }
        if random.u8(0..100) < ROLLED_BACK_PERCENT {
            transaction.rollback().await?;
            rolled_back += 1;
        } else {
            transaction.commit().await?;
            oracle.committed(rows);
        }
        sleep(PAUSE).await;
    }
    Ok(rolled_back)
}
