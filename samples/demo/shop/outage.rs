//! Outage of a service: only what needs it waits.

use super::{
    composition,
    journey::{APPROVED, APPROVED_BY_COMMANDS, Journey},
    show::{AT_ONCE, LIMIT, Outcome, ensure, eventually, screen::Screen},
    stage::{Stage, Style},
    styles,
};
use std::time::{Duration, Instant};

/// Time for which the orders are observed while the customer service is away.
const WATCHED_FOR: Duration = Duration::from_secs(1);

/// Stops the customer service, places orders, asks the gateway, and starts the service again.
pub(crate) async fn stop_the_customer_service(
    screen: Screen,
    stage: &mut Stage,
    customer: i64,
) -> Outcome<()> {
    screen.step(
        5,
        "Stop the customer service",
        "Orders are still taken, and stay PENDING: events and commands wait in the service's queues. The gateway composes what is left, \
         and names what is missing. The view needs neither service, and has the whole.",
    );
    let status = stage.shop.customers.sigterm(LIMIT).await;
    ensure(status.success(), || format!("customer-service was asked to stop, and ended with {status}"))?;
    screen.fact("SIGTERM", &format!("customer-service ended with {status}"));

    let begin = Instant::now();
    let (mut danced, mut conducted) = tokio::try_join!(
        Journey::begin(stage, Style::Choreography, customer, "20"),
        Journey::begin(stage, Style::Orchestration, customer, "20"),
    )?;
    for journey in [&mut danced, &mut conducted] {
        let order = journey.order;
        eventually(AT_ONCE, &format!("the history shows order {order}"), async || {
            Ok((journey.look_at_history(stage).await? == "PENDING").then_some(()))
        })
        .await?;
    }
    let orders = [danced.order, conducted.order];
    let took = begin.elapsed().as_millis();
    let text = format!("201 in both styles: orders {} and {}", orders[0], orders[1]);
    screen.fact("POST /orders", &text);
    screen.fact("", &format!("PENDING in the history {took} ms later"));
    composition::partial_beside_whole(screen, stage, customer, &orders).await?;
    while begin.elapsed() < WATCHED_FOR {
        for journey in [&mut danced, &mut conducted] {
            let state = journey.look(stage).await?;
            ensure(state == "PENDING", || {
                format!("order {} is {state}, but nobody can have decided on it", journey.order)
            })?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    screen.fact("1 s later", "both orders are still PENDING");

    let begin = Instant::now();
    stage.shop.customers.start_again();
    stage.shop.customers.wait_ready(LIMIT).await;
    let up = begin.elapsed().as_millis();
    tokio::try_join!(danced.follow(stage, &APPROVED), conducted.follow(stage, &APPROVED_BY_COMMANDS))?;
    let settled = begin.elapsed().as_millis();
    screen.fact(
        "start it again",
        &format!("customer-service is up after {up} ms, the orders are settled after {settled} ms"),
    );
    composition::whole_again(screen, stage, customer, begin).await?;
    println!();
    styles::show_beside(screen, stage, &danced, &conducted)
}
