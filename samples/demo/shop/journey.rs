//! Journey of an order through the services: its states as two of them show it, and the events between.

use super::{
    show::{
        AT_ONCE, Outcome, ensure, eventually,
        screen::{Cell, Screen},
    },
    stage::{Stage, Style},
};
use hyper::{Method, Response};
use serde_json::Value;
use std::time::{Duration, Instant};
use testkit::Service;

/// Order in progress.
pub(crate) struct Journey {
    style: Style,
    pub(crate) order: i64,
    customer: i64,
    begin: Instant,
    /// W3C Trace Context shared by all steps, from the order service's answer.
    traceparent: String,
    moments: Vec<Moment>,
}

/// Moment visible from outside.
struct Moment {
    at: Duration,
    what: String,
    who: String,
}

/// Expected end of an order.
pub(crate) struct End {
    /// State, with a reason if there is one.
    pub(crate) state: &'static str,
    /// Types of all events, commands and replies.
    pub(crate) messages: &'static [&'static str],
    /// Set if the history knows the customer, and so shows the order.
    pub(crate) in_history: bool,
}

/// End of an order that is approved by choreography.
pub(crate) const APPROVED: End = End {
    state: "APPROVED",
    messages: &["OrderCreated", "CustomerCreditReserved", "OrderApproved"],
    in_history: true,
};
/// End of an order that is approved by orchestration.
pub(crate) const APPROVED_BY_COMMANDS: End = End {
    state: "APPROVED",
    messages: &["OrderCreated", "ReserveCredit", "CreditReserved", "OrderApproved"],
    in_history: true,
};

impl Journey {
    /// Places an order.
    pub(crate) async fn begin(stage: &Stage, style: Style, customer: i64, total: &str) -> Outcome<Self> {
        let begin = Instant::now();
        let body = format!(r#"{{"customerId": {customer}, "orderTotal": {{"amount": {total}}}}}"#);
        let answer = stage.orders(style).send(Method::POST, "/orders", &[], body).await;
        let order = json(&answer)?["orderId"].as_i64();
        ensure(answer.status() == 201 && order.is_some(), || format!("POST /orders: {answer:?}"))?;
        let traceparent = answer.headers().get("traceparent").and_then(|value| value.to_str().ok());
        let mut journey = Self {
            style,
            order: order.unwrap_or_default(),
            customer,
            begin,
            traceparent: traceparent.unwrap_or_default().to_owned(),
            moments: Vec::new(),
        };
        journey.note("POST /orders: 201", "orders");
        Ok(journey)
    }

    /// Cancels the order, as another step of the same trace.
    pub(crate) async fn cancel(&mut self, stage: &Stage) -> Outcome<()> {
        let path = format!("/orders/{}/cancel", self.order);
        let headers = [("traceparent", self.traceparent.as_str())];
        let answer = stage.orders(self.style).send(Method::POST, &path, &headers, String::new()).await;
        ensure(answer.status() == 200, || format!("POST {path}: {answer:?}"))?;
        self.note("POST .../cancel: 200", "orders");
        Ok(())
    }

    /// Follows the order to this end, everywhere.
    pub(crate) async fn follow(&mut self, stage: &Stage, end: &End) -> Outcome<()> {
        let what = format!("order {} becomes {} by {:?}", self.order, end.state, end.messages);
        eventually(AT_ONCE, &what, async || {
            let in_orders = self.look(stage).await? == end.state;
            let in_history = !end.in_history || self.look_at_history(stage).await? == end.state;
            let all_heard = stage.watcher()?.of_order(self.order).len() >= end.messages.len();
            Ok((in_orders && in_history && all_heard).then_some(()))
        })
        .await?;
        let events = stage.watcher()?.of_order(self.order);
        let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
        ensure(names == end.messages, || format!("{what}, but the messages were {names:?}"))?;
        let trace_id = self.trace_id();
        ensure(events.iter().all(|event| event.trace_id == trace_id), || {
            format!("the messages of order {} are not all of trace {trace_id}: {events:?}", self.order)
        })
    }

    /// Returns the order service's state, with the reason if there is one.
    pub(crate) async fn look(&mut self, stage: &Stage) -> Outcome<String> {
        let order = get(stage.orders(self.style), &format!("/orders/{}", self.order)).await?;
        let state = with_reason(&order["orderState"], &order["rejectionReason"]);
        self.note(&state, "orders");
        Ok(state)
    }

    /// Returns the history's state; empty before the order is there.
    pub(crate) async fn look_at_history(&mut self, stage: &Stage) -> Outcome<String> {
        let view = get(&stage.shop.history, &format!("/customers/{}/orderhistory", self.customer)).await?;
        let mut orders = view["orders"].as_array().into_iter().flatten();
        let order = orders.find(|order| order["orderId"] == self.order);
        let state =
            order.map_or_else(String::new, |order| with_reason(&order["state"], &order["rejectionReason"]));
        if !state.is_empty() {
            self.note(&state, "history");
        }
        Ok(state)
    }

    /// Shows all moments in the order of time.
    pub(crate) fn show(&self, screen: Screen, stage: &Stage) -> Outcome<()> {
        let moments = self.moments.iter().map(|Moment { at, what, who }| {
            (*at, [Cell::marked(what.as_str()), Cell::plain(who.as_str()), Cell::plain("")])
        });
        let events = stage.watcher()?.of_order(self.order).into_iter().map(|event| {
            let at = event.at.saturating_duration_since(self.begin);
            let cells = [event.name.clone(), event.way(), event.position].map(Cell::plain);
            (at, cells)
        });
        let mut rows: Vec<_> = moments.chain(events).collect();
        rows.sort_by_key(|(at, _)| *at);
        let rows = rows.into_iter().map(|(at, cells)| {
            let mut row = vec![Cell::number(format!("{:.1}", at.as_secs_f64() * 1000.0))];
            row.extend(cells);
            row
        });
        // The same width for each order: the longest event and the longest route.
        let [ms, what, place] =
            [format!("{:>6}", "ms"), format!("{:<31}", "state or event"), format!("{:<28}", "where")];
        screen.table(&[&ms, &what, &place, "outbox-position"], rows.collect());
        Ok(())
    }

    /// Returns time and text of all moments and messages, in the order of time.
    pub(crate) fn timeline(&self, stage: &Stage) -> Outcome<Vec<(Duration, Cell)>> {
        let moments = self.moments.iter().map(|Moment { at, what, who }| {
            // The answer to a request names its path.
            let text = if what.contains(':') { what.clone() } else { format!("{what} in {who}") };
            (*at, Cell::marked(text))
        });
        let messages = stage.watcher()?.of_order(self.order).into_iter().map(|message| {
            let text = format!("{} {} {}", message.kind, message.name, message.outcome);
            (message.at.saturating_duration_since(self.begin), Cell::plain(text.trim_end()))
        });
        let mut timeline: Vec<_> = moments.chain(messages).collect();
        timeline.sort_by_key(|(at, _)| *at);
        Ok(timeline)
    }

    /// Returns the saga that coordinates the order, as the order service tells it.
    pub(crate) async fn saga(&self, stage: &Stage) -> Outcome<Value> {
        get(stage.orders(self.style), &format!("/orders/{}/saga", self.order)).await
    }

    /// Returns the trace id, which every log has.
    pub(crate) fn trace_id(&self) -> &str {
        // version, trace id, span id, flags
        self.traceparent.split('-').nth(1).unwrap_or_default()
    }

    /// Notes what `who` shows, unless it has not changed.
    fn note(&mut self, what: &str, who: &str) {
        let last = self.moments.iter().rev().find(|moment| moment.who == who);
        if last.is_none_or(|last| last.what != what) {
            let at = self.begin.elapsed();
            self.moments.push(Moment { at, what: what.to_owned(), who: who.to_owned() });
        }
    }
}

fn with_reason(state: &Value, reason: &Value) -> String {
    let words = [state, reason].into_iter().filter_map(Value::as_str);
    words.collect::<Vec<_>>().join(" ")
}

async fn get(service: &Service, path: &str) -> Outcome<Value> {
    json(&service.send(Method::GET, path, &[], String::new()).await)
}

fn json(answer: &Response<String>) -> Outcome<Value> {
    Ok(serde_json::from_str(answer.body())?)
}
