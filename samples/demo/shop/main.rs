//! `make demo`: customers and orders. Three services, each with its own database, a gateway before them, and outboxd between them.
//!
//! Follows single orders through both styles of saga, stops one service, kills outboxd under load, and compares the books: the exit
//! status is 1 if a check fails. With `KEEP=1` everything keeps running until Ctrl-C.

mod amount;
mod books;
mod burst;
mod composition;
mod journey;
mod look;
mod outage;
#[path = "../show/mod.rs"]
mod show;
mod stage;
mod story;
mod styles;
mod trace;
mod verdict;
mod walls;
mod watcher;

use books::Bookkeeper;
use show::{
    LIMIT, Outcome, daemon,
    files::{kept_folder, short},
    perform,
    screen::Screen,
};
use stage::Stage;
use std::process::ExitCode;

const STEPS: usize = 8;

#[tokio::main]
async fn main() -> ExitCode {
    perform(STEPS, play, look::stay, stop).await
}

/// Plays all steps.
async fn play(screen: Screen) -> Outcome<Stage> {
    let mut stage = stage::start_services(screen).await?;
    stage::start_relay(screen, &mut stage).await?;
    let bookkeeper = Bookkeeper::start(&stage.shop.databases).await?;
    let customer = story::four_orders(screen, &stage, &bookkeeper).await?;
    styles::side_by_side(screen, &stage, &bookkeeper, customer).await?;
    outage::stop_the_customer_service(screen, &mut stage, customer).await?;
    burst::kill_under_load(screen, &mut stage, &bookkeeper).await?;
    look::look_inside(screen, &stage).await?;
    Ok(stage)
}

/// Stops everything as systemd does. A user who looked around may have killed a program.
async fn stop(screen: Screen, stage: Stage, somebody_looked_around: bool) -> Outcome<()> {
    screen.step(
        8,
        "Stop",
        "On SIGTERM each service ends what it has begun, and outboxd waits for outstanding confirms and tells PostgreSQL its final \
         position. Then both nodes are stopped, and their data is removed.",
    );
    let Stage { mut shop, mut coordinator, mut gateway, .. } = stage;
    let (orders, coordinator, customers, history, gateway) = tokio::join!(
        shop.orders.sigterm(LIMIT),
        coordinator.sigterm(LIMIT),
        shop.customers.sigterm(LIMIT),
        shop.history.sigterm(LIMIT),
        gateway.sigterm(LIMIT),
    );
    let outboxd = shop.relay.sigterm(LIMIT).await;
    let ended = [
        ("order-service", orders),
        ("order-service-2", coordinator),
        ("customer-service", customers),
        ("order-history", history),
        ("api-gateway", gateway),
        ("outboxd", outboxd),
    ];
    for (program, status) in ended {
        daemon::ended(screen, program, status, somebody_looked_around)?;
    }
    screen.fact("what remains", &format!("configuration and logs, in {}", short(&kept_folder())));
    Ok(())
}
