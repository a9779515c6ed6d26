//! A consumer of the demo's own: hears every event of both services, and takes nothing away from anybody.

use super::show::Outcome;
use futures_util::StreamExt;
use lapin::{
    message::Delivery,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use testkit::consumer::{connect, received};
use tokio::task::JoinHandle;

/// An event as it came from the broker.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When it arrived here.
    pub(crate) at: Instant,
    /// The same in every copy.
    pub(crate) id: String,
    /// What happened.
    pub(crate) name: String,
    /// Which order it is about, if about one.
    pub(crate) order: Option<i64>,
    /// The service whose outbox it was in.
    pub(crate) source: String,
    /// Where in that outbox.
    pub(crate) position: String,
    /// What it shares with the request that caused it.
    pub(crate) trace_id: String,
    pub(crate) body: String,
}

/// A running consumer; stops when dropped, and its queue goes with it.
#[derive(Debug)]
pub(crate) struct Watcher {
    heard: Arc<Mutex<Vec<Event>>>,
    task: JoinHandle<Result<(), lapin::Error>>,
}

/// Each event, and whose subscription asks for it.
const ROUTES: [(&str, &str); 8] = [
    ("OrderCreated", "customers, history"),
    ("OrderApproved", "history"),
    ("OrderRejected", "history"),
    ("OrderCancelled", "customers, history"),
    ("CustomerCreated", "history"),
    ("CustomerCreditReserved", "orders"),
    ("CustomerCreditReservationFailed", "orders"),
    ("CustomerValidationFailed", "orders"),
];

impl Event {
    /// From which service to which: `orders -> customers, history`.
    pub(crate) fn way(&self) -> String {
        let route = ROUTES.iter().find(|(name, _)| *name == self.name);
        format!("{} -> {}", self.source, route.map_or("nobody", |(_, to)| to))
    }
}

impl Watcher {
    /// Listens from now on.
    pub(crate) async fn start(url: &str) -> Outcome<Self> {
        let (connection, channel) = connect(url).await?;
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?;
        for exchange in ["Order.events", "Customer.events"] {
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            channel.queue_bind(queue.name().clone(), exchange.into(), "#".into(), options, arguments).await?;
        }
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let mut deliveries =
            channel.basic_consume(queue.name().clone(), "".into(), options, FieldTable::default()).await?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notebook = heard.clone();
        let task = tokio::spawn(async move {
            let _connection = connection;
            while let Some(delivery) = deliveries.next().await {
                notebook.lock().unwrap_or_else(PoisonError::into_inner).push(event(&delivery?));
            }
            Ok(())
        });
        Ok(Self { heard, task })
    }

    /// Everything about one order so far, as it came.
    pub(crate) fn of_order(&self, order: i64) -> Vec<Event> {
        self.heard().iter().filter(|event| event.order == Some(order)).cloned().collect()
    }

    /// What came behind the first so many.
    pub(crate) fn behind(&self, count: usize) -> Vec<Event> {
        self.heard().iter().skip(count).cloned().collect()
    }

    /// How many messages came so far.
    pub(crate) fn count(&self) -> usize {
        self.heard().len()
    }

    /// How many of them were copies of one before.
    pub(crate) fn copies(&self) -> usize {
        let heard = self.heard();
        heard.len() - heard.iter().map(|event| &event.id).collect::<HashSet<_>>().len()
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn event(delivery: &Delivery) -> Event {
    let header = |name: &str| {
        let headers = delivery.properties.headers().as_ref();
        match headers.and_then(|headers| headers.inner().get(name)) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => String::new(),
        }
    };
    let message = received(delivery);
    let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
    Event {
        at: Instant::now(),
        id: message.id,
        name: delivery.routing_key.to_string(),
        order: body["orderId"].as_i64(),
        source: header("outbox-source"),
        position: message.position,
        // version, trace id, span id, flags
        trace_id: header("traceparent").split('-').nth(1).unwrap_or_default().to_owned(),
        body: message.body,
    }
}
