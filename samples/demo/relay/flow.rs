//! The ordinary case: transactions on one side, messages on the other.

use super::{
    SILENCE,
    orders::{self, Row},
    shipping::Shipping,
    show::{
        LIMIT, Outcome, ensure,
        screen::{Cell, Screen},
    },
    stage::Stage,
};
use lapin::{
    message::Delivery,
    types::{AMQPValue, ShortString},
};
use testkit::{Oracle, consumer::received};

/// Writes the story, consumes it, and shows both side by side.
pub(crate) async fn commit_and_consume(screen: Screen, stage: &Stage, oracle: &Oracle) -> Outcome<Shipping> {
    screen.step(
        4,
        "Commit four transactions, roll one back, then consume",
        "Each changes an order and writes to the outbox. The consumer connects after the last commit: its queue has \
         been there all along. What was committed arrives in commit order; what was rolled back never happened.",
    );
    let rows = orders::tell(&mut stage.client().await, oracle).await?;
    let mut shipping = Shipping::start(&stage.rabbitmq.url("/"), oracle.clone()).await?;
    let mut deliveries = Vec::new();
    for _ in rows.iter().filter(|row| row.committed) {
        let next = shipping.next(LIMIT).await;
        deliveries.push(next.ok_or_else(|| format!("the consumer waited {LIMIT:?} for a message in vain"))?);
    }
    let table = rows.iter().map(|row| table_row(row, &deliveries)).collect();
    let head = ["tx", "order", "event", "payload", "routing key", "outbox-position", "body"];
    screen.tables(["written to PostgreSQL", "received from RabbitMQ"], 4, &head, table);
    if let Some(unexpected) = shipping.next(SILENCE).await {
        return Err(format!("a message arrived that should not: {unexpected:?}").into());
    }
    let verdict = oracle.verdict();
    ensure(verdict.keeps_promises() && verdict.duplicates == 0, || verdict.to_string())?;
    println!("\n  The first message in full:\n");
    show(screen, &deliveries[0]);
    Ok(shipping)
}

fn table_row(row: &Row, deliveries: &[Delivery]) -> Vec<Cell> {
    let id_of = |delivery: &&Delivery| received(delivery).id == row.id;
    let mut cells: Vec<Cell> =
        [&row.transaction.to_string(), row.order, row.event, &row.payload].map(Cell::plain).into();
    cells.extend(match deliveries.iter().find(id_of) {
        Some(delivery) => {
            let message = received(delivery);
            let body = if message.body == row.payload { "the same" } else { "DIFFERS" };
            [delivery.routing_key.as_str(), &message.position, body].map(Cell::plain)
        }
        None if row.committed => ["LOST", "", ""].map(Cell::marked),
        None => ["nothing", "(rolled back)", ""].map(Cell::marked),
    });
    cells
}

fn show(screen: Screen, delivery: &Delivery) {
    let properties = &delivery.properties;
    let text =
        |value: &Option<ShortString>| value.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    screen.fact("exchange", delivery.exchange.as_str());
    screen.fact("routing key", delivery.routing_key.as_str());
    screen.fact(
        "message_id",
        &format!("{}   the row's id: a copy has the same", text(properties.message_id())),
    );
    screen.fact("type", &text(properties.kind()));
    screen.fact("content_type", &text(properties.content_type()));
    let mode = properties.delivery_mode().map_or_else(|| "-".to_owned(), |mode| mode.to_string());
    screen.fact("delivery_mode", &format!("{mode}   persistent"));
    let timestamp = properties.timestamp().map_or_else(|| "-".to_owned(), |seconds| seconds.to_string());
    screen.fact("timestamp", &format!("{timestamp}   when its transaction committed"));
    screen.fact("app_id", &text(properties.app_id()));
    let headers = properties.headers().as_ref().map(|headers| headers.inner());
    for (number, (name, value)) in headers.into_iter().flatten().enumerate() {
        let label = if number == 0 { "headers" } else { "" };
        let value = shown(value);
        screen.fact(label, &format!("{:<16}  {value}", name.as_str()));
    }
    screen.fact("body", &String::from_utf8_lossy(&delivery.data));
}

fn shown(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => text.to_string(),
        other => format!("{other:?}"),
    }
}
