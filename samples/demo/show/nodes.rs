//! Private nodes of a demo.

use super::{
    Outcome, ensure,
    files::{executable, short},
    screen::Screen,
};
use hyper::Method;
use serde_json::Value;
use std::time::{Duration, Instant};
use testkit::{Postgres, PostgresOptions, RabbitMq, RabbitMqOptions};

/// Starts both nodes at the same time and shows their versions. Requires the programs that the Makefile's `target`
/// builds.
pub(crate) async fn start(screen: Screen, programs: &[&str], target: &str) -> Outcome<(Postgres, RabbitMq)> {
    for program in programs {
        let file = executable(program);
        ensure(file.exists(), || format!("{} is not there; `make {target}` builds it first", short(&file)))?;
    }
    let ((postgres, postgres_took), (rabbitmq, rabbitmq_took)) = tokio::join!(
        timed(Postgres::start(PostgresOptions::default())),
        timed(RabbitMq::start(RabbitMqOptions::default())),
    );
    let client = postgres.client("postgres").await;
    let version: String = client.query_one("SHOW server_version", &[]).await?.get(0);
    screen.fact("PostgreSQL", &format!("{version}, up in {:.1} s", postgres_took.as_secs_f64()));
    let overview = rabbitmq.api(Method::GET, "/api/overview", Value::Null).await;
    let version = overview["rabbitmq_version"].as_str().unwrap_or("of unknown version");
    screen.fact("RabbitMQ", &format!("{version}, up in {:.1} s", rabbitmq_took.as_secs_f64()));
    Ok((postgres, rabbitmq))
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    (work.await, start.elapsed())
}
