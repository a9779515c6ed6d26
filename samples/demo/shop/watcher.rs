//! Watcher: a consumer of every event, command and reply of both services, which takes none away from others.

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

/// Event, command or reply from the broker.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// `event`, `command` or `reply`.
    pub(crate) kind: &'static str,
    /// Time of the arrival.
    pub(crate) at: Instant,
    /// Id, the same in every copy.
    pub(crate) id: String,
    /// Type of the event, command or reply.
    pub(crate) name: String,
    /// `SUCCESS` or `FAILURE` of a reply.
    pub(crate) outcome: String,
    /// Order, if the message concerns one.
    pub(crate) order: Option<i64>,
    /// Service of the outbox.
    pub(crate) source: String,
    /// Position in the outbox.
    pub(crate) position: String,
    /// Trace id of the request that caused it.
    pub(crate) trace_id: String,
    pub(crate) body: String,
}

/// Running consumer. Dropping it stops it and removes its queue.
#[derive(Debug)]
pub(crate) struct Watcher {
    heard: Arc<Mutex<Vec<Event>>>,
    task: JoinHandle<Result<(), lapin::Error>>,
}

/// Channels of the services, each with the types to bind. A direct exchange knows no wildcard.
const CHANNELS: [(&str, &[&str]); 4] = [
    ("Order.events", &["#"]),
    ("Customer.events", &["#"]),
    (COMMANDS, &["ReserveCredit", "ReleaseCredit"]),
    (REPLIES, &["CreditReserved", "CustomerNotFound", "CreditLimitExceeded", "CreditReleased"]),
];
const COMMANDS: &str = "customer-service.commands";
const REPLIES: &str = "order-service.replies";

/// Messages, and the services that subscribe to them.
const ROUTES: [(&str, &str); 14] = [
    ("OrderCreated", "customers, history"),
    ("OrderApproved", "history"),
    ("OrderRejected", "history"),
    ("OrderCancelled", "customers, history"),
    ("CustomerCreated", "history"),
    ("CustomerCreditReserved", "orders"),
    ("CustomerCreditReservationFailed", "orders"),
    ("CustomerValidationFailed", "orders"),
    ("ReserveCredit", "customers"),
    ("ReleaseCredit", "customers"),
    ("CreditReserved", "orders"),
    ("CustomerNotFound", "orders"),
    ("CreditLimitExceeded", "orders"),
    ("CreditReleased", "orders"),
];

impl Event {
    /// Returns the route: `orders -> customers, history`.
    pub(crate) fn way(&self) -> String {
        let route = ROUTES.iter().find(|(name, _)| *name == self.name);
        format!("{} -> {}", self.source, route.map_or("nobody", |(_, to)| to))
    }
}

impl Watcher {
    /// Consumes from now on.
    pub(crate) async fn start(url: &str) -> Outcome<Self> {
        let (connection, channel) = connect(url).await?;
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?;
        for (exchange, keys) in CHANNELS {
            for key in keys {
                let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
                let (queue, exchange, key) = (queue.name().clone(), exchange.into(), (*key).into());
                channel.queue_bind(queue, exchange, key, options, arguments).await?;
            }
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

    /// Returns the messages of an order so far, in order of arrival.
    pub(crate) fn of_order(&self, order: i64) -> Vec<Event> {
        self.heard().iter().filter(|event| event.order == Some(order)).cloned().collect()
    }

    /// Returns the messages after the first `count`.
    pub(crate) fn behind(&self, count: usize) -> Vec<Event> {
        self.heard().iter().skip(count).cloned().collect()
    }

    /// Returns the number of messages so far.
    pub(crate) fn count(&self) -> usize {
        self.heard().len()
    }

    /// Returns the number of copies of earlier messages.
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
        kind: match delivery.exchange.as_str() {
            COMMANDS => "command",
            REPLIES => "reply",
            _ => "event",
        },
        outcome: header("outcome"),
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
