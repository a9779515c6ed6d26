//! The queues, and the consumers that write down what arrives.
//!
//! | queue | gets | for |
//! | --- | --- | --- |
//! | `witness`, quorum | everything | the truth about what was published; acknowledged at once, so that the broker delivers little again |
//! | `service`, quorum | what is not fragile | what a service sees, with late acknowledgements and what the broker delivers again |
//! | `fragile`, classic | what is fragile | to be deleted, and to be full |
//! | `subscribed`, classic | what is steady | a subscription of outboxd's, beside other queues; to be deleted, and declared again by outboxd |
//! | `sole`, classic | rows of that type | the same, with no other queue beside it |
//!
//! `witness` is bound by both keys. While `fragile` is gone, `witness` is bound by one, so fragile rows are unroutable and
//! none is lost with the deleted queue: the witness has what was in it.
//!
//! The witness was a stream once, in which each copy has an offset of its own. But RabbitMQ 3.10 confirms messages that a stream
//! does not have, when they are published while the stream's writer still starts after the broker's own restart; the
//! quorum queue beside it had every one of them.

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

/// Of the rows that are for [`SOLE`] alone.
pub(crate) const SOLE_TYPE: &str = "Sole";

pub(crate) const EXCHANGE: &str = "Order.events";
const WITNESS: &str = "witness";
const SERVICE: &str = "service";
pub(crate) const FRAGILE_QUEUE: &str = "fragile";
pub(crate) const SUBSCRIBED: &str = "subscribed";
/// The queue's name, and its rows' aggregate.
pub(crate) const SOLE: &str = "sole";

/// The routing keys of a subscription of outboxd's.
pub(crate) fn keys_of(subscription: &str) -> &'static [&'static str] {
    if subscription == SOLE { &[SOLE_TYPE] } else { &[STEADY] }
}

/// outboxd's subscriptions, as its configuration has them.
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

/// A consumer at work; it connects anew for as long as it lives.
pub(crate) struct Consumer {
    arrivals: Arc<Mutex<Arrivals>>,
    task: JoinHandle<()>,
}

impl Consumer {
    /// What has arrived so far.
    pub(crate) fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Declares everything. Quorum queues of this broker lose their registration when it is killed within half a
/// second of it, so this takes two.
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

/// Makes fragile rows routable: the witness comes first, so that it misses none.
pub(crate) async fn make_fragile(url: &str) -> Result<(), lapin::Error> {
    let (connection, channel) = connect(url).await?;
    bind(&channel, WITNESS, FRAGILE).await?;
    // Nobody reads it.
    queue(&channel, FRAGILE_QUEUE, &[("x-max-length", AMQPValue::LongInt(1000))], FRAGILE).await?;
    answered(connection.close(200, "made".into())).await
}

/// Deletes the fragile queue with what is in it; then the witness gets no fragile rows either.
pub(crate) async fn delete_fragile(url: &str) -> Result<(), lapin::Error> {
    let (connection, channel) = connect(url).await?;
    answered(channel.queue_delete(FRAGILE_QUEUE.into(), QueueDeleteOptions::default())).await?;
    let [queue, exchange, key] = [WITNESS, EXCHANGE, FRAGILE].map(Into::into);
    answered(channel.queue_unbind(queue, exchange, key, FieldTable::default())).await?;
    answered(connection.close(200, "deleted".into())).await
}

/// Deletes a queue with what is in it.
pub(crate) async fn delete(url: &str, queue: &str) -> Result<(), lapin::Error> {
    let (connection, channel) = connect(url).await?;
    answered(channel.queue_delete(queue.into(), QueueDeleteOptions::default())).await?;
    answered(connection.close(200, "deleted".into())).await
}

/// How many messages are in a queue; an error when there is none of that name.
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

/// Writes down everything, and acknowledges at once.
pub(crate) fn witness(url: &str) -> Consumer {
    consumer(url, WITNESS, 1)
}

/// Consumes as a service does, and acknowledges late: many at once, or when nothing comes for a moment.
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

/// Nothing when something is missing that every message has.
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
