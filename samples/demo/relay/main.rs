//! `make demo-relay`: a service that writes an outbox, a service that consumes a queue, and the real daemon between them.
//!
//! Shows outboxd's promises and checks them: the exit status is 1 if a check fails. With `KEEP=1` everything keeps
//! running until Ctrl-C.

mod crash;
mod flow;
mod orders;
mod shipping;
#[path = "../show/mod.rs"]
mod show;
mod stage;

use shipping::{QUEUE, Shipping};
use show::{
    LIMIT, Outcome, daemon,
    files::{kept_folder, short},
    perform,
    screen::Screen,
};
use stage::Stage;
use std::{process::ExitCode, time::Duration};
use testkit::{Oracle, consumer::received};

/// Silence after which nothing is in flight.
const SILENCE: Duration = Duration::from_millis(500);

const STEPS: usize = 7;

/// Metrics that the demo shows.
const METRICS: [&str; 5] = [
    "outboxd_messages_published_total{",
    "outboxd_messages_confirmed_total{",
    "outboxd_in_flight_messages{",
    "outboxd_lag_bytes{",
    "outboxd_slot_retained_bytes{",
];

#[tokio::main]
async fn main() -> ExitCode {
    perform(STEPS, play, stay, stop).await
}

/// Plays all steps.
async fn play(screen: Screen) -> Outcome<(Stage, Shipping)> {
    let oracle = Oracle::default();
    let mut stage = start_nodes(screen).await?;
    create_tables(screen, &stage).await?;
    start_daemon(screen, &mut stage).await?;
    let shipping = flow::commit_and_consume(screen, &stage, &oracle).await?;
    crash::kill_in_mid_stream(screen, &mut stage, &oracle).await?;
    look_inside(screen, &stage).await?;
    Ok((stage, shipping))
}

async fn start_nodes(screen: Screen) -> Outcome<Stage> {
    screen.step(
        1,
        "Start PostgreSQL and RabbitMQ",
        "Two private nodes on free ports, with data of their own: no service of this machine is touched. It takes \
         some seconds.",
    );
    Stage::set_up(screen).await
}

async fn create_tables(screen: Screen, stage: &Stage) -> Outcome<()> {
    screen.step(
        2,
        "Create an outbox table",
        "A service that changes its tables and then sends a message can crash in between. So it writes the message \
         into a table, in the same transaction. `outboxd schema` prints that table:",
    );
    let schema = stage.outboxd(&["schema"]).await?;
    let outbox = schema.lines().skip_while(|line| !line.starts_with("CREATE TABLE outbox"));
    for line in outbox.take_while(|line| !line.is_empty()) {
        screen.quote(line.split("  --").next().unwrap_or(line).trim_end());
    }
    let client = stage.client().await;
    client.batch_execute(&schema).await?;
    client.batch_execute(orders::ORDERS_TABLE).await?;
    Ok(())
}

async fn start_daemon(screen: Screen, stage: &mut Stage) -> Outcome<()> {
    screen.step(
        3,
        "Start outboxd",
        "It creates a publication and a replication slot, declares the queue of the service that ships orders, and \
         follows the write-ahead log from then on. The table itself is never polled.",
    );
    daemon::start(screen, &mut stage.daemon).await
}

async fn look_inside(screen: Screen, stage: &Stage) -> Outcome<()> {
    screen.step(
        6,
        "Look at outboxd as an operator does",
        "`outboxd status` asks the running daemon; Prometheus reads /metrics. The counters begin with the restart.",
    );
    screen.quote(&stage.outboxd(&["status"]).await?);
    println!();
    let metrics = stage.daemon.metrics().await;
    for name in METRICS {
        let line = metrics.lines().find(|line| line.starts_with(name));
        screen.quote(line.ok_or_else(|| format!("/metrics has no {name}"))?);
    }
    Ok(())
}

/// Shows arriving messages.
async fn stay(screen: Screen, (stage, shipping): &mut (Stage, Shipping)) -> Outcome<()> {
    screen.interlude(
        "Everything stays up until Ctrl-C",
        "Insert a row by hand, and see below how it arrives. What is not committed does not.",
    );
    screen.fact("psql", &stage.psql());
    screen.fact("", &format!("(or -h {})", stage.postgres.socket_dir().display()));
    screen.fact("insert", "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)");
    screen.fact("", "VALUES ('Order', '1001', 'OrderReturned', '{\"parcels\": 1}');");
    screen.fact("queue", QUEUE);
    daemon::invite(screen, &stage.daemon, &stage.rabbitmq);
    println!();
    shipping.forget();
    while let Some(delivery) = shipping.next(Duration::MAX).await {
        let message = received(&delivery);
        screen.fact(
            "received",
            &format!("{} of {}: {}", delivery.routing_key, message.aggregate, message.body),
        );
    }
    Err("the consumer lost its connection".into())
}

/// Stops everything as systemd does. A user who looked around may have killed the daemon.
async fn stop(
    screen: Screen,
    (mut stage, _shipping): (Stage, Shipping),
    somebody_looked_around: bool,
) -> Outcome<()> {
    screen.step(
        7,
        "Stop",
        "On SIGTERM outboxd waits for outstanding confirms and tells PostgreSQL its final position: a clean restart \
         repeats nothing. Then both nodes are stopped, and their data is removed.",
    );
    let status = stage.daemon.sigterm(LIMIT).await;
    daemon::ended(screen, "outboxd", status, somebody_looked_around)?;
    drop(stage);
    screen.fact("what remains", &format!("configuration and log, in {}", short(&kept_folder())));
    Ok(())
}
