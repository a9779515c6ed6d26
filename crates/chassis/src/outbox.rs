//! Publishing from a service: one more row in the transaction that changes the service's tables.
//!
//! The column `channel` names the exchange: `<aggregate type>.events` for events, a participant's or an orchestrator's
//! channel for commands and replies.

use std::fmt::Debug;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio_postgres::{Transaction, types::Json};

use super::{
    database::DatabaseError,
    saga::headers::SAGA_TYPE,
    trace::{self, TraceContext},
};

/// Event of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<P> {
    /// Aggregate type, which names the channel.
    pub aggregate_type: &'static str,
    /// Aggregate id. Events of one aggregate are delivered in commit order.
    pub aggregate_id: i64,
    /// Event type: the routing key.
    pub event_type: &'static str,
    /// Type of the saga that coordinates the aggregate, for the header `saga-type`. `None`: the event's consumers act by
    /// themselves.
    pub saga_type: Option<&'static str>,
    /// Body, as JSON.
    pub payload: P,
}

/// Row of the outbox.
pub(super) struct Row<'a, P> {
    pub(super) channel: &'a str,
    pub(super) aggregate_type: &'a str,
    pub(super) aggregate_id: &'a str,
    pub(super) message_type: &'a str,
    pub(super) headers: &'a [(&'static str, &'a str)],
    pub(super) payload: &'a P,
}

/// Returns the channel of the events of an aggregate type.
pub fn events_of(aggregate_type: &str) -> String {
    format!("{aggregate_type}.events")
}

/// Writes the event in the caller's transaction: it is published if and only if the transaction commits.
///
/// A transaction locks the aggregate's row before it writes events, so that they commit in the order in which they
/// happened.
///
/// # Errors
///
/// [`DatabaseError`] when the row cannot be written, so that the transaction cannot commit.
pub async fn append<P: Serialize + Debug + Sync>(
    transaction: &Transaction<'_>,
    trace: &TraceContext,
    event: &Event<P>,
) -> Result<(), DatabaseError> {
    let Event { aggregate_type, aggregate_id, event_type, saga_type, payload } = event;
    let headers: Vec<_> = saga_type.iter().map(|&saga_type| (SAGA_TYPE, saga_type)).collect();
    let row = Row {
        channel: &events_of(aggregate_type),
        aggregate_type,
        aggregate_id: &aggregate_id.to_string(),
        message_type: event_type,
        headers: &headers,
        payload,
    };
    write(transaction, trace, row).await?;
    tracing::info!(aggregate_type, aggregate_id, event_type, "event written");
    Ok(())
}

/// Writes a row; gives its id, the message's `message_id`.
pub(super) async fn write<P: Serialize + Debug + Sync>(
    transaction: &Transaction<'_>,
    trace: &TraceContext,
    row: Row<'_, P>,
) -> Result<String, DatabaseError> {
    let Row { channel, aggregate_type, aggregate_id, message_type, headers, payload } = row;
    let insert = "INSERT INTO public.outbox (channel, aggregatetype, aggregateid, type, payload, headers) \
                  VALUES ($1, $2, $3, $4, $5, $6) RETURNING id::text";
    let traceparent = trace.next().to_string();
    let all = headers.iter().copied().chain([(trace::HEADER, traceparent.as_str())]);
    let headers: Map<String, Value> =
        all.map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
    let inserted = transaction
        .query_one(
            insert,
            &[&channel, &aggregate_type, &aggregate_id, &message_type, &Json(payload), &Json(&headers)],
        )
        .await?;
    Ok(inserted.get(0))
}
