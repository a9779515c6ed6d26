//! Speed at which a service drains its queue, by prefetch.
//!
//! `customer-service` starts with a queue of orders, of as many customers as orders or of one. Each round has its own
//! database and virtual host; contenders alternate. Command: `cargo bench --bench consume`.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use testkit::{Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, Service, consumer};
use tokio::time::sleep;
use tokio_postgres::NoTls;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const QUEUE: &str = "customer-service.orders";
const MESSAGES: i64 = 3_000;
const ROUNDS: usize = 3;
const PREFETCH: [&str; 4] = ["1", "2", "8", "64"];
/// Limit of a round. A longer one is broken.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Outcome<()> {
    // Arguments come from `cargo bench` only.
    let (postgres, rabbitmq) = tokio::join!(
        Postgres::start(PostgresOptions::default()),
        RabbitMq::start(RabbitMqOptions::default())
    );
    for round in 1..=ROUNDS {
        for prefetch in PREFETCH {
            let name = format!("consume_{round}_{prefetch}");
            let rate = drain(&postgres, &rabbitmq, &name, prefetch).await?;
            println!("round {round}, prefetch {prefetch}: {rate:.0} messages/s");
        }
    }
    Ok(())
}

/// Fills the queue, starts the service, and returns the messages per second between the first and the last handled
/// one.
async fn drain(postgres: &Postgres, rabbitmq: &RabbitMq, name: &str, prefetch: &str) -> Outcome<f64> {
    let database = postgres.create_database(name).await;
    let amqp = rabbitmq.create_vhost(name).await;
    // The first start declares the queue and creates the tables.
    let mut service = Service::start("customer-service", &database, &amqp).await;
    while service.metric("inbox_connected{queue=\"customer-service.orders\"}").await != Some(1.0) {
        sleep(Duration::from_millis(20)).await;
    }
    service.sigterm(PATIENCE).await;
    let (client, connection) = tokio_postgres::connect(&database, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("INSERT INTO customers (name, credit_limit) VALUES ('Ada', 1000000)").await?;
    publish(&amqp).await?;

    let mut service = Service::prepare("customer-service", &database, &amqp).with("AMQP_PREFETCH", prefetch);
    service.start_again();
    let (mut begin, deadline) = (None, Instant::now() + PATIENCE);
    loop {
        let row = client.query_one("SELECT count(*) FROM inbox", &[]).await?;
        let (handled, now): (i64, _) = (row.get(0), Instant::now());
        if handled > 0 && begin.is_none() {
            begin = Some((now, handled));
        }
        if let Some((since, already)) = begin.filter(|_| handled == MESSAGES) {
            service.sigterm(PATIENCE).await;
            return Ok((handled - already) as f64 / (now - since).as_secs_f64());
        }
        assert!(now < deadline, "only {handled} messages were handled in time");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Publishes one order for each message, all of one customer, so that nothing else delays them.
async fn publish(amqp: &str) -> Outcome<()> {
    let (connection, channel) = consumer::connect(amqp).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut confirms = Vec::new();
    for order in 1..=MESSAGES {
        let properties = BasicProperties::default()
            .with_message_id(order.to_string().into())
            .with_type("OrderCreated".into())
            .with_delivery_mode(2);
        let body = format!(
            r#"{{"orderId": {order}, "orderDetails": {{"customerId": 1, "orderTotal": {{"amount": 1}}}}}}"#
        );
        let options = BasicPublishOptions::default();
        confirms.push(
            channel.basic_publish("".into(), QUEUE.into(), options, body.as_bytes(), properties).await?,
        );
    }
    for confirm in confirms {
        confirm.await?;
    }
    Ok(connection.close(200, "published".into()).await?)
}
