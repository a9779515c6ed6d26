//! Publishing from a service: one more row in the transaction that changes the service's tables.

use std::fmt::Debug;

use serde::Serialize;
use tokio_postgres::{Transaction, types::Json as Payload};

use super::{
    database::DatabaseError,
    trace::{self, TraceContext},
};

/// Event of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<P> {
    /// Aggregate type, which names the exchange.
    pub aggregate_type: &'static str,
    /// Aggregate id. Events of one aggregate are delivered in commit order.
    pub aggregate_id: i64,
    /// Event type: the routing key.
    pub event_type: &'static str,
    /// Body, as JSON.
    pub payload: P,
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
    let Event { aggregate_type, aggregate_id, event_type, payload } = event;
    let insert = "INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload, headers) \
                  VALUES ($1, $2::bigint::text, $3, $4, jsonb_build_object($5::text, $6::text))";
    let traceparent = trace.next().to_string();
    transaction
        .execute(
            insert,
            &[aggregate_type, aggregate_id, event_type, &Payload(payload), &trace::HEADER, &traceparent],
        )
        .await?;
    tracing::info!(aggregate_type, aggregate_id, event_type, "event written");
    Ok(())
}
