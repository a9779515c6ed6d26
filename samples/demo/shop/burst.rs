//! Many orders at once, while outboxd is killed.

use super::{
    amount::Amount,
    books::Bookkeeper,
    show::{
        AT_ONCE, LIMIT, NOW_AND_THEN, Outcome, ensure, eventually,
        screen::{Screen, counted},
    },
    stage::Stage,
    verdict,
};
use futures_util::future::try_join_all;
use hyper::Method;
use std::{cell::Cell, time::Instant};
use testkit::{Service, Shop};

/// Number of orders, concurrent clients, and customers.
const ORDERS: usize = 1_000;
const CLIENTS: usize = 8;
const CUSTOMERS: [&str; 10] =
    ["Barbara", "Donald", "Edsger", "Frances", "Grace", "Leslie", "Margaret", "Niklaus", "Radia", "Tony"];
/// Credit limit of a customer: less than its orders.
const CREDIT_LIMIT: &str = "1500";
/// Largest order.
const TOTAL_MAX: Amount = Amount(50 * 10_000);

/// Orders placed when outboxd is killed and started again. Orders are placed all the time.
const KILLED_AT: usize = 400;
const STARTED_AGAIN_AT: usize = 700;

/// Places the orders, kills outboxd meanwhile, starts it again, and compares the books when all is settled.
pub(crate) async fn kill_under_load(
    screen: Screen,
    stage: &mut Stage,
    bookkeeper: &Bookkeeper,
) -> Outcome<()> {
    screen.step(
        6,
        "Kill outboxd with kill -9 while 1,000 orders are placed",
        &format!(
            "{CLIENTS} clients place them for {} customers, who cannot pay for all: one half by choreography, the other by orchestration. \
             Orders are taken throughout. The killed outboxd has saved nothing, and had nothing to save: PostgreSQL's slots know what \
             RabbitMQ has confirmed. (Everything runs on this machine, and the private PostgreSQL does not wait for its disk.)",
            CUSTOMERS.len()
        ),
    );
    let mut customers = Vec::new();
    for name in CUSTOMERS {
        customers.push(stage.customer(name, CREDIT_LIMIT).await?);
    }
    let (settled_before, copies_before) = (bookkeeper.settled().await?, stage.watcher()?.copies());
    let begin = Instant::now();
    let at = || format!("after {:.1} s", begin.elapsed().as_secs_f64());
    let (placed, is_back) = (Cell::new(0), Cell::new(false));

    let Stage { shop: Shop { orders, relay, .. }, coordinator, .. } = stage;
    let place = async {
        place_all([orders, coordinator], &customers, &placed, &is_back).await?;
        let rate = ORDERS as f64 / begin.elapsed().as_secs_f64();
        screen.fact(&at(), &format!("all {} orders are placed: {rate:.0} a second", counted(ORDERS)));
        Outcome::Ok(())
    };
    let kill = async {
        let settled = async || Outcome::Ok(bookkeeper.settled().await? - settled_before);
        reached(&placed, KILLED_AT).await?;
        let pid = relay.pid();
        relay.kill9().await;
        let (count, settled_now) = (placed.get(), settled().await?);
        screen
            .fact(&at(), &format!("kill -9 {pid}: {count} orders are placed, {settled_now} of them settled"));
        reached(&placed, STARTED_AGAIN_AT).await?;
        let (count, settled_now) = (placed.get(), settled().await?);
        screen.fact(&at(), &format!("start it again: {count} are placed, {settled_now} settled"));
        relay.start_again();
        is_back.set(true);
        relay.wait_ready(LIMIT).await;
        screen.fact(&at(), "ready: it goes on behind what RabbitMQ had confirmed");
        Outcome::Ok(())
    };
    tokio::try_join!(place, kill)?;

    all_settled(bookkeeper, settled_before + ORDERS).await?;
    let rate = ORDERS as f64 / begin.elapsed().as_secs_f64();
    screen.fact(&at(), &format!("all are settled: {rate:.0} orders a second went through, kill -9 included"));

    let books = bookkeeper.balanced().await?;
    println!();
    books.show(screen);
    println!();
    verdict::give(screen, stage, &books, copies_before).await
}

/// Places orders by all clients at once. At the restart they wait for outboxd if a slow machine has not started it
/// yet, so that the kill and the restart always fall among orders.
async fn place_all(
    services: [&Service; 2],
    customers: &[i64],
    placed: &Cell<usize>,
    is_back: &Cell<bool>,
) -> Outcome<()> {
    let clients = (0..CLIENTS).map(async |number| {
        let mut random = fastrand::Rng::with_seed(number as u64);
        // Every other client asks the instance that orchestrates.
        let orders = services[number % services.len()];
        for _ in (number..ORDERS).step_by(CLIENTS) {
            let may_go_on = async || Ok((is_back.get() || placed.get() < STARTED_AGAIN_AT).then_some(()));
            eventually(AT_ONCE, "outboxd is started again", may_go_on).await?;
            let customer = customers[random.usize(..customers.len())];
            // Whole cents, at least 0.01.
            let total = Amount(random.i64(1..=TOTAL_MAX.0 / 100) * 100);
            let body = format!(r#"{{"customerId": {customer}, "orderTotal": {{"amount": {total}}}}}"#);
            let answer = orders.send(Method::POST, "/orders", &[], body).await;
            ensure(answer.status() == 201, || format!("POST /orders: {answer:?}"))?;
            placed.set(placed.get() + 1);
        }
        Outcome::Ok(())
    });
    try_join_all(clients).await.map(drop)
}

async fn reached(placed: &Cell<usize>, count: usize) -> Outcome<()> {
    eventually(AT_ONCE, &format!("{count} orders are placed"), async || {
        Ok((placed.get() >= count).then_some(()))
    })
    .await
}

/// Waits as long as orders keep being settled.
async fn all_settled(bookkeeper: &Bookkeeper, count: usize) -> Outcome<()> {
    let mut settled = 0;
    while settled < count {
        let what = format!("another order is settled, after {settled} of {count}");
        let more = async || Ok(Some(bookkeeper.settled().await?).filter(|now| *now > settled));
        settled = eventually(NOW_AND_THEN, &what, more).await?;
    }
    Ok(())
}
