//! Outage of a service: only what needs it waits.

use super::{
    journey::{APPROVED, Journey},
    show::{AT_ONCE, LIMIT, Outcome, ensure, eventually, screen::Screen},
    stage::Stage,
};
use std::time::{Duration, Instant};

/// Time for which the order is observed while the customer service is away.
const WATCHED_FOR: Duration = Duration::from_secs(1);

/// Stops the customer service, places an order, and starts the service again.
pub(crate) async fn stop_the_customer_service(
    screen: Screen,
    stage: &mut Stage,
    customer: i64,
) -> Outcome<()> {
    screen.step(
        4,
        "Stop the customer service",
        "Orders are still taken, and stay PENDING: their events wait in the service's queue. The history needs neither of the others.",
    );
    let status = stage.shop.customers.sigterm(LIMIT).await;
    ensure(status.success(), || format!("customer-service was asked to stop, and ended with {status}"))?;
    screen.fact("SIGTERM", &format!("customer-service ended with {status}"));

    let mut journey = Journey::begin(stage, customer, "20").await?;
    let (order, begin) = (journey.order, Instant::now());
    eventually(AT_ONCE, &format!("the history shows order {order}"), async || {
        Ok((journey.look_at_history(stage).await? == "PENDING").then_some(()))
    })
    .await?;
    let took = begin.elapsed().as_millis();
    screen
        .fact("POST /orders", &format!("201, order {order}; the history shows it {took} ms later: PENDING"));
    while begin.elapsed() < WATCHED_FOR {
        let state = journey.look(stage).await?;
        ensure(state == "PENDING", || {
            format!("order {order} is {state}, but nobody can have decided on it")
        })?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    screen.fact("1 s later", &format!("order {order} is still PENDING"));

    let begin = Instant::now();
    stage.shop.customers.start_again();
    stage.shop.customers.wait_ready(LIMIT).await;
    let up = begin.elapsed().as_millis();
    journey.follow(stage, &APPROVED).await?;
    let settled = begin.elapsed().as_millis();
    screen.fact(
        "start it again",
        &format!("customer-service is up after {up} ms, the order settled after {settled} ms"),
    );
    println!();
    journey.show(screen, stage)
}
