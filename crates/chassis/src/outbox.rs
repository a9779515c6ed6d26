//! Publishing, as a service sees it: one more row in the transaction that changes its own tables.

use std::fmt::Debug;

use serde::Serialize;
use tokio_postgres::{Transaction, types::Json as Payload};

use super::{
    database::DatabaseError,
    trace::{self, TraceContext},
};

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<P> {
    /// Type of what it happened to; names the exchange.
    pub aggregate_type: &'static str,
    /// Which one; its events are delivered in commit order.
    pub aggregate_id: i64,
    /// What happened; the routing key.
    pub event_type: &'static str,
    /// The body, as JSON.
    pub payload: P,
}

/// Writes the event inside the caller's transaction: it is published if and only if that commits.
///
/// Whoever changes an aggregate locks its row first, so that its events commit in the order in which they happened.
///
/// # Errors
///
/// The row cannot be written, so the transaction cannot commit.
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
