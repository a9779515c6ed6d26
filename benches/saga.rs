//! Speed of an order through the whole saga: three services, three databases, the broker and outboxd on this machine.
//!
//! First a burst at full speed: orders per second from the first POST until the last order is settled, and until the
//! history shows it. Then a steady 50 orders per second: time from an order's POST to APPROVED, and to the history
//! view. Times come from the databases, which are queried every two milliseconds.
//!
//! Last the gateway's two kinds of answer about a customer: composed of two services, and from the view.

use std::{
    collections::HashMap,
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use testkit::{Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, Shop};
use tokio::{task::JoinSet, time::sleep};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const BURST: usize = 3_000;
/// Connections that place the burst's orders.
const PLACERS: usize = 8;
const CUSTOMERS: usize = 100;

const RATE: u32 = 50;
const STEADY_FOR: Duration = Duration::from_secs(30);

const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Questions of each kind about a customer.
const QUESTIONS: usize = 1_000;
/// Time without a settled order after which the run fails.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Outcome<()> {
    // Arguments come from `cargo bench` only.
    let (postgres, rabbitmq) = tokio::join!(
        Postgres::start(PostgresOptions::default()),
        RabbitMq::start(RabbitMqOptions::default())
    );
    for style in ["choreography", "orchestration"] {
        measure(style, &postgres, &rabbitmq).await?;
    }
    Ok(())
}

/// Measures both loads with sagas in one style.
async fn measure(style: &str, postgres: &Postgres, rabbitmq: &RabbitMq) -> Outcome<()> {
    println!("{style}");
    let shop = Arc::new(Shop::open_with(style, "saga", postgres, rabbitmq).await);
    let mut customers = Vec::new();
    for _ in 0..CUSTOMERS {
        customers.push(shop.customer("1000000").await);
    }
    let customers = Arc::new(customers);

    for round in 1..=3 {
        let (begin, placed) = burst(&shop, &customers).await?;
        let last = placed.iter().copied().max().unwrap_or_default();
        let first = placed.iter().copied().min().unwrap_or_default();
        let placing = begin.elapsed();
        let settled = watch(&shop.databases[0], first, last).await?;
        let shown = watch(&shop.databases[2], first, last).await?;
        let rate = |end: Option<&Instant>| {
            let took = end.map_or(Duration::MAX, |end| *end - begin).as_secs_f64();
            BURST as f64 / took
        };
        println!(
            "burst {round}: {BURST} orders placed at {:.0}/s, settled at {:.0}/s, in the history at {:.0}/s",
            BURST as f64 / placing.as_secs_f64(),
            rate(settled.values().max()),
            rate(shown.values().max()),
        );
    }

    let (placed, settled, shown) = steady(&shop, &customers).await?;
    for (what, seen) in [("APPROVED", settled), ("the history view", shown)] {
        let took = placed.iter().map(|(id, begin)| seen[id] - *begin).collect();
        println!("{RATE} orders/s, {} orders: from POST to {what}: {}", placed.len(), distribution(took));
    }
    ask(&shop).await
}

/// Asks the gateway about one customer of ten orders, by composition and by the view in turn.
async fn ask(shop: &Shop) -> Outcome<()> {
    let customer = shop.customer("1000").await;
    for _ in 0..10 {
        shop.order(customer, "1.25").await;
    }
    let gateway = shop.gateway().await;
    let paths = ["orders", "orderhistory"].map(|query| format!("/api/customers/{customer}/{query}"));
    let begin = Instant::now();
    while gateway.get_text(&paths[1]).await.1.matches("APPROVED").count() < 10 {
        if begin.elapsed() > PATIENCE {
            return Err("the view does not show ten approved orders".into());
        }
        sleep(Duration::from_millis(50)).await;
    }
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..QUESTIONS {
        for (path, took) in paths.iter().zip(&mut took) {
            let begin = Instant::now();
            let (status, answer) = gateway.get_text(path).await;
            took.push(begin.elapsed());
            if status != 200 || answer.matches("APPROVED").count() < 10 {
                return Err(format!("{path}: {status} {answer}").into());
            }
        }
    }
    for (what, took) in ["composed", "from the view"].into_iter().zip(took) {
        println!("{QUESTIONS} answers {what}: {}", distribution(took));
    }
    Ok(())
}

/// Returns median, 99th percentile and maximum.
fn distribution(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    format!("median {:.1} ms, p99 {:.1} ms, at most {:.1} ms", at(0.5), at(0.99), at(1.0))
}

/// Places the burst, and returns its start and the orders' ids.
async fn burst(shop: &Arc<Shop>, customers: &Arc<Vec<i64>>) -> Outcome<(Instant, Vec<i64>)> {
    let begin = Instant::now();
    let mut placers = JoinSet::new();
    for placer in 0..PLACERS {
        let (shop, customers) = (shop.clone(), customers.clone());
        placers.spawn(async move {
            let mut ids = Vec::new();
            for number in (placer..BURST).step_by(PLACERS) {
                ids.push(shop.order(customers[number % CUSTOMERS], "1.25").await);
            }
            ids
        });
    }
    let mut ids = Vec::new();
    while let Some(placed) = placers.join_next().await {
        ids.extend(placed?);
    }
    Ok((begin, ids))
}

type Seen = HashMap<i64, Instant>;

/// Places orders at a steady rate, and returns when each was placed, settled, and shown by the history.
async fn steady(shop: &Arc<Shop>, customers: &Arc<Vec<i64>>) -> Outcome<(Seen, Seen, Seen)> {
    let count = STEADY_FOR.as_secs() as u32 * RATE;
    // Ids are consecutive, because one order service serves only this run.
    let first = shop.order(customers[0], "1").await + 1;
    let last = first + i64::from(count) - 1;
    let watching = [&shop.databases[0], &shop.databases[2]].map(|database| {
        let database = database.clone();
        tokio::spawn(async move { watch(&database, first, last).await })
    });
    let begin = Instant::now();
    let mut placing = JoinSet::new();
    for number in 0..count {
        tokio::time::sleep_until((begin + Duration::from_secs(1) / RATE * number).into()).await;
        let (shop, customer) = (shop.clone(), customers[number as usize % CUSTOMERS]);
        placing.spawn(async move {
            let begin = Instant::now();
            (shop.order(customer, "1.25").await, begin)
        });
    }
    let mut placed = Seen::new();
    while let Some(order) = placing.join_next().await {
        let (id, begin) = order?;
        placed.insert(id, begin);
    }
    let [settled, shown] = watching;
    Ok((placed, settled.await??, shown.await??))
}

/// Waits until all orders from `first` to `last` are settled in this database, and returns when each was seen
/// settled.
async fn watch(database: &str, first: i64, last: i64) -> Outcome<Seen> {
    let (client, connection) = tokio_postgres::connect(database, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let select = client
        .prepare(
            "SELECT id FROM orders WHERE id BETWEEN $1 AND $2 AND state <> 'PENDING' AND NOT id = ANY($3)",
        )
        .await?;
    let mut seen = Seen::new();
    let (mut from, mut progress) = (first, Instant::now());
    while seen.len() < (last - first + 1) as usize {
        let known: Vec<i64> = seen.keys().copied().filter(|id| *id >= from).collect();
        let rows = client.query(&select, &[&from, &last, &known]).await?;
        let now = Instant::now();
        if !rows.is_empty() {
            progress = now;
        }
        seen.extend(rows.iter().map(|row| (row.get::<_, i64>(0), now)));
        while seen.contains_key(&from) {
            from += 1;
        }
        if progress.elapsed() > PATIENCE {
            let missing: Vec<i64> = (first..=last).filter(|id| !seen.contains_key(id)).collect();
            let look = "SELECT format('%s %s', id, state) FROM orders WHERE id = ANY($1)";
            let rows = client.query(look, &[&missing]).await?;
            let there: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            return Err(format!("{database}: not settled: {missing:?}, of which there are {there:?}").into());
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(seen)
}
