//! The queues, and the consumers that record what arrives.
//!
//! | queue | gets | for |
//! | --- | --- | --- |
//! | `witness`, quorum | everything | records every publish; acknowledges at once, so that the broker delivers little again |
//! | `service`, quorum | rows that are not fragile | acts as a service, with late acknowledgements and repeated deliveries |
//! | `fragile`, classic | fragile rows | is deleted, and gets full |
//! | `subscribed`, classic | steady rows | a subscription of outboxd beside other queues; is deleted, and outboxd declares it again |
//! | `sole`, classic | rows of its own type | the same, without another queue beside it |
//!
//! `witness` is bound by both keys. While `fragile` does not exist, `witness` is bound by one key, so fragile rows are unroutable. No
//! row is lost with the deleted queue, because the witness has its messages.
//!
//! The witness is no stream: after a restart of the broker, RabbitMQ 3.10 confirms messages that a stream does not store while its
//! writer still starts. The quorum queue stores them all.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lapin::{
    Channel, ExchangeKind,
    message::Delivery,
    options::{
        BasicAckOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::{
    arrivals::{Arrivals, Message},
    verdict::parse_id,
};
use testkit::consumer::{Reading, answered, connect};

/// Event types, which are the routing keys.
pub(crate) const STEADY: &str = "Steady";
pub(crate) const FRAGILE: &str = "Fragile";

/// Event type of the rows for [`SOLE`] alone.
pub(crate) const SOLE_TYPE: &str = "Sole";

pub(crate) const EXCHANGE: &str = "Order.events";
const WITNESS: &str = "witness";
const SERVICE: &str = "service";
pub(crate) const FRAGILE_QUEUE: &str = "fragile";
pub(crate) const SUBSCRIBED: &str = "subscribed";
/// Name of the queue, and of its rows' aggregate.
pub(crate) const SOLE: &str = "sole";

/// Routing keys of one of outboxd's subscriptions.
pub(crate) fn keys_of(subscription: &str) -> &'static [&'static str] {
    if subscription == SOLE { &[SOLE_TYPE] } else { &[STEADY] }
}

/// Configuration of outboxd's subscriptions.
pub(crate) fn subscriptions() -> String {
    let one = |queue| {
        let keys = keys_of(queue);
        format!(
            "[[subscriptions]]\nqueue = \"{queue}\"\nexchange = \"{EXCHANGE}\"\nbinding_keys = {keys:?}\n\
             queue_type = \"classic\"\nsingle_active_consumer = false\ndead_letter = false\n"
        )
    };
    [SUBSCRIBED, SOLE].map(one).concat()
}

/// A running consumer. It reconnects until it is dropped.
pub(crate) struct Consumer {
    arrivals: Arc<Mutex<Arrivals>>,
    task: JoinHandle<()>,
}

impl Consumer {
    /// The messages that have arrived so far.
    pub(crate) fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Declares everything. A broker that is killed within half a second of it loses the registration of quorum queues, so this waits
/// two seconds.
pub(crate) async fn declare(url: &str) -> Result<(), lapin::Error> {
    let (connection, channel) = connect(url).await?;
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let declaring =
        channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, FieldTable::default());
    answered(declaring).await?;
    queue(&channel, WITNESS, &[("x-queue-type", text("quorum"))], STEADY).await?;
    queue(&channel, SERVICE, &[("x-queue-type", text("quorum"))], STEADY).await?;
    answered(connection.close(200, "declared".into())).await?;
    make_fragile(url).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

/// Makes fragile rows routable. The witness is bound first, so that it misses none.
pub(crate) async fn make_fragile(url: &str) -> Result<(), lapin::Error> {
    let (connection, channel) = connect(url).await?;
    bind(&channel, WITNESS, FRAGILE).await?;
    // Nobody consumes from the queue.
    queue(&channel, FRAGILE_QUEUE, &[("x-max-length", AMQPValue::LongInt(1000))], FRAGILE).await?;
    answered(connection.close(200, "made".into())).await
}

/// Deletes the fragile queue with its messages, then unbinds the witness from fragile rows.
pub(crate) async fn delete_fragile(url: &str) -> Result<(), lapin::Error> {
    let (connection, channel) = connect(url).await?;
    answered(channel.queue_delete(FRAGILE_QUEUE.into(), QueueDeleteOptions::default())).await?;
    let [queue, exchange, key] = [WITNESS, EXCHANGE, FRAGILE].map(Into::into);
    answered(channel.queue_unbind(queue, exchange, key, FieldTable::default())).await?;
    answered(connection.close(200, "deleted".into())).await
}

/// Deletes a queue with its messages.
pub(crate) async fn delete(url: &str, queue: &str) -> Result<(), lapin::Error> {
    let (connection, channel) = connect(url).await?;
    answered(channel.queue_delete(queue.into(), QueueDeleteOptions::default())).await?;
    answered(connection.close(200, "deleted".into())).await
}

/// Number of messages in a queue. Fails when the queue does not exist.
pub(crate) async fn depth(url: &str, queue: &str) -> Result<u32, lapin::Error> {
    let (connection, channel) = connect(url).await?;
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = answered(channel.queue_declare(queue.into(), passive, FieldTable::default())).await;
    answered(connection.close(200, "asked".into())).await?;
    Ok(declared?.message_count())
}

async fn queue(
    channel: &Channel,
    name: &str,
    arguments: &[(&str, AMQPValue)],
    key: &str,
) -> Result<(), lapin::Error> {
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    answered(channel.queue_declare(name.into(), durable, table(arguments))).await?;
    bind(channel, name, key).await
}

async fn bind(channel: &Channel, queue: &str, key: &str) -> Result<(), lapin::Error> {
    let [queue, exchange, key] = [queue, EXCHANGE, key].map(Into::into);
    let binding =
        channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default());
    answered(binding).await
}

/// Records every message, and acknowledges at once.
pub(crate) fn witness(url: &str) -> Consumer {
    consumer(url, WITNESS, 1)
}

/// Consumes like a service, and acknowledges late: many at once, or after a moment without messages.
pub(crate) fn service(url: &str) -> Consumer {
    consumer(url, SERVICE, 50)
}

fn consumer(url: &str, queue: &'static str, unacknowledged_max: usize) -> Consumer {
    let arrivals = Arc::<Mutex<Arrivals>>::default();
    let (url, shared) = (url.to_owned(), arrivals.clone());
    let task = tokio::spawn(async move {
        loop {
            let _lost = consume(&url, queue, unacknowledged_max, &shared).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    Consumer { arrivals, task }
}

async fn consume(
    url: &str,
    queue: &str,
    unacknowledged_max: usize,
    arrivals: &Mutex<Arrivals>,
) -> Result<(), lapin::Error> {
    let mut reading = Reading::open(url, queue, 100, FieldTable::default()).await?;
    let mut unacknowledged = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_millis(100), reading.next()).await {
            Ok(next) => {
                let Some(delivery) = next? else { return Ok(()) };
                note(arrivals, &delivery);
                unacknowledged.push(delivery);
                if unacknowledged.len() < unacknowledged_max {
                    continue;
                }
            }
            Err(_idle) => {}
        }
        if let Some(last) = unacknowledged.drain(..).next_back() {
            answered(last.ack(BasicAckOptions { multiple: true })).await?;
        }
    }
}

fn note(arrivals: &Mutex<Arrivals>, delivery: &Delivery) {
    let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    match message(delivery) {
        Some(message) => arrivals.add(message),
        None => arrivals.unlike.push(format!("no message of ours: {:?}", delivery.properties)),
    }
}

/// Parses a delivery. `None` when a part that every message has is missing.
fn message(delivery: &Delivery) -> Option<Message> {
    let position = string(delivery, "outbox-position")?;
    let (commit, index) = position.split_once('-')?;
    let digest = Sha256::digest(&delivery.data);
    Some(Message {
        id: parse_id(delivery.properties.message_id().as_ref()?.as_str()),
        aggregate: string(delivery, "aggregate-id")?,
        sequence: integer(delivery, "sequence").filter(|number| *number > 0)? as u64,
        position: (u64::from_str_radix(commit, 16).ok()?, u32::from_str_radix(index, 16).ok()?),
        digest: u64::from_be_bytes(digest.first_chunk::<8>().copied()?),
        redelivered: delivery.redelivered,
    })
}

fn header<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    delivery.properties.headers().as_ref()?.inner().get(name)
}

fn string(delivery: &Delivery, name: &str) -> Option<String> {
    match header(delivery, name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn integer(delivery: &Delivery, name: &str) -> Option<i64> {
    match header(delivery, name)? {
        AMQPValue::LongLongInt(number) => Some(*number),
        AMQPValue::LongInt(number) => Some(i64::from(*number)),
        _ => None,
    }
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}
