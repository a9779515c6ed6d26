//! Events of orders for browsers, as server-sent events. One queue feeds all browsers of an instance.
//!
//! A browser that reads too slowly misses events, and learns so (`lagged`). The gateway keeps nothing for it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::HeaderMap,
    response::sse::{Event, KeepAlive, Sse},
};
use chassis::{
    inbox::Message,
    listener::{Binding, Heard, Subscription},
};
use contract::events::{
    CREDIT_RESERVATION_FAILED, CREDIT_RESERVED, CUSTOMER, CUSTOMER_VALIDATION_FAILED, ORDER, ORDER_APPROVED,
    ORDER_CANCELLED, ORDER_CREATED, ORDER_REJECTED,
};
use futures_util::{Stream, StreamExt, stream};
use process::{http_connections::Turn, shutdown::Shutdown};
use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::broadcast::{self, error::RecvError};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, metrics::Metrics};

/// Events that name an order.
const OF_ORDERS: [&str; 4] = [ORDER_CREATED, ORDER_APPROVED, ORDER_REJECTED, ORDER_CANCELLED];
const OF_CUSTOMERS: [&str; 3] = [CREDIT_RESERVED, CREDIT_RESERVATION_FAILED, CUSTOMER_VALIDATION_FAILED];
/// Interval of a comment that keeps the stream alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Largest event that browsers get.
const EVENT_BYTES_MAX: usize = 64 * 1024;

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(events))
}

/// Returns what the gateway listens to.
pub(crate) fn subscription() -> Subscription {
    let bindings =
        [(ORDER, &OF_ORDERS[..]), (CUSTOMER, &OF_CUSTOMERS[..])].map(|(aggregate_type, types)| Binding {
            exchange: chassis::outbox::events_of(aggregate_type),
            keys: types.iter().map(|&event_type| event_type.to_owned()).collect(),
        });
    Subscription { queue: "api-gateway.events", bindings: bindings.into() }
}

/// Events on their way to browsers. Clones share them.
#[derive(Clone)]
pub(crate) struct Events {
    sender: broadcast::Sender<News>,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// What a browser is told.
#[derive(Clone, Debug)]
enum News {
    Event(Arc<Told>),
    /// Events may be missing here: the gateway did not hear them itself.
    Gap,
}

/// Event with its data as one line of JSON.
#[derive(Debug)]
struct Told {
    event_type: &'static str,
    id: String,
    data: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    order_id: i64,
    customer_id: Option<i64>,
    /// Commit time in milliseconds since 1970, which the message has in whole seconds.
    occurred_at: Option<i64>,
    position: Option<&'a str>,
    payload: &'a RawValue,
}

/// Ids in a payload: the orders' events have the customer in the details.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ids {
    order_id: i64,
    customer_id: Option<i64>,
    order_details: Option<Details>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    customer_id: i64,
}

impl Events {
    /// `buffer`: most events that a browser may be behind.
    pub(crate) fn new(buffer: usize, metrics: Metrics, shutdown: Shutdown) -> Self {
        Self { sender: broadcast::Sender::new(buffer), metrics, shutdown }
    }

    /// Returns the function that hears the events.
    pub(crate) fn hear(self) -> impl FnMut(Heard) + Send + 'static {
        move |heard| {
            let metrics = &self.metrics;
            let news = match heard {
                Heard::Connected => {
                    metrics.events_connected.set(1);
                    News::Gap
                }
                Heard::Disconnected => {
                    metrics.events_connected.set(0);
                    return;
                }
                Heard::Message(message) => match told(&message) {
                    Ok(told) => {
                        metrics.events_heard.inc();
                        News::Event(Arc::new(told))
                    }
                    Err(why) => {
                        metrics.events_ignored.inc();
                        tracing::warn!(message_id = message.id, "an event was ignored: {why}");
                        return;
                    }
                },
            };
            // An error means that no browser listens.
            let _ = self.sender.send(news);
        }
    }
}

/// Returns what browsers are told of a message, or why nothing.
fn told(message: &Message) -> Result<Told, String> {
    let types = OF_ORDERS.into_iter().chain(OF_CUSTOMERS);
    let event_type = types.into_iter().find(|known| *known == message.event_type);
    let event_type = event_type.ok_or("its type is none that the gateway knows")?;
    if message.body.len() > EVENT_BYTES_MAX {
        return Err(format!("it is longer than {EVENT_BYTES_MAX} bytes"));
    }
    if message.id.chars().any(char::is_control) {
        return Err("its id has control characters".to_owned());
    }
    let payload: &RawValue = serde_json::from_slice(&message.body).map_err(|error| error.to_string())?;
    let ids: Ids = serde_json::from_str(payload.get()).map_err(|error| error.to_string())?;
    let data = Data {
        id: &message.id,
        event_type,
        order_id: ids.order_id,
        customer_id: ids.customer_id.or(ids.order_details.map(|details| details.customer_id)),
        occurred_at: message.committed_at.map(|seconds| seconds.saturating_mul(1000)),
        position: message.position.as_deref(),
        payload,
    };
    // A line break in JSON is a blank: in a text it is escaped.
    let data = serde_json::to_string(&data).map_err(|error| error.to_string())?.replace(['\r', '\n'], " ");
    Ok(Told { event_type, id: message.id.clone(), data })
}

/// Events of orders, as they happen
///
/// Server-sent events. `event` is the type (OrderCreated, CustomerCreditReserved and so on), `id` the message's id, `data` JSON with id,
/// type, orderId, customerId, occurredAt, position and payload. `lagged` says that events are missing here: `missed` of them, or an
/// unknown number (null) after the gateway or the browser had lost its connection.
#[utoipa::path(get, path = "/api/events", responses(
    (status = 200, content_type = "text/event-stream", body = String)
))]
async fn events(
    State(api): State<Api>,
    turn: Option<Extension<Turn>>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let Events { sender, metrics, mut shutdown } = api.events;
    let browser = Browser {
        news: sender.subscribe(),
        // A browser that was here before has missed what happened since.
        is_back: headers.contains_key("last-event-id"),
        turn: turn.map(|Extension(turn)| turn),
        metrics: metrics.clone(),
        _open: Open::new(metrics.event_streams),
    };
    let stream = stream::unfold(browser, Browser::next)
        .take_until(async move {
            shutdown.requested().await;
        })
        .map(Ok);
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

/// Browser that listens.
struct Browser {
    news: broadcast::Receiver<News>,
    is_back: bool,
    turn: Option<Turn>,
    metrics: Metrics,
    _open: Open,
}

impl Browser {
    async fn next(mut self) -> Option<(Event, Self)> {
        if std::mem::take(&mut self.is_back) {
            return Some((lagged(None), self));
        }
        let event = match self.news.recv().await {
            Ok(News::Event(told)) => Event::default().event(told.event_type).id(&told.id).data(&told.data),
            Ok(News::Gap) => lagged(None),
            Err(RecvError::Lagged(missed)) => {
                self.metrics.events_missed.inc_by(missed);
                lagged(Some(missed))
            }
            Err(RecvError::Closed) => return None,
        };
        // Asked for the next event, so the browser has read those before. Silent ones give way to new connections first.
        if let Some(turn) = &self.turn {
            turn.is_servers();
            turn.is_clients();
        }
        Some((event, self))
    }
}

fn lagged(missed: Option<u64>) -> Event {
    let missed = missed.map_or_else(|| "null".to_owned(), |missed| missed.to_string());
    Event::default().event("lagged").data(format!("{{\"missed\":{missed}}}"))
}

/// Counts a stream while it is open.
struct Open(IntGauge);

impl Open {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
