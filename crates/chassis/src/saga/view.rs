//! View of a saga: its state and its steps.

use serde::Serialize;
use tokio_postgres::{GenericClient, Row};
use utoipa::ToSchema;

use crate::database::DatabaseError;

/// Saga with its steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SagaView {
    saga_id: i64,
    #[serde(rename = "type")]
    saga_type: String,
    /// RUNNING, COMPLETED or COMPENSATED.
    state: String,
    /// Set when a step has failed.
    compensating: bool,
    /// Time of the last change.
    #[schema(format = DateTime)]
    updated_at: String,
    /// In the order in which they began.
    steps: Vec<SagaStepView>,
}

/// Action or compensation that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SagaStepView {
    /// Number of the step, from 1.
    step: i32,
    /// Set when the work undoes the step.
    compensation: bool,
    /// Work in the service's own database; null for a command.
    local: Option<String>,
    /// Type of the command; null for local work.
    command: Option<String>,
    /// Type of the reply; null while there is none.
    reply: Option<String>,
    /// SUCCESS or FAILURE; null while there is no reply.
    outcome: Option<String>,
    #[schema(format = DateTime)]
    began_at: String,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
}

/// Returns a saga with its steps.
///
/// # Errors
///
/// [`DatabaseError`] when the query fails.
pub async fn find(client: &impl GenericClient, id: i64) -> Result<Option<SagaView>, DatabaseError> {
    // One statement, so that the steps are those of the state.
    let select = "SELECT s.id, s.type, s.state, s.compensating, to_char(s.updated_at AT TIME ZONE 'UTC', $2) AS updated_at, \
                    t.step + 1 AS step, t.compensating AS compensation, t.work, t.message_id, t.reply, t.outcome, \
                    to_char(t.began_at AT TIME ZONE 'UTC', $2) AS began_at, to_char(t.ended_at AT TIME ZONE 'UTC', $2) AS ended_at \
                  FROM public.saga s LEFT JOIN public.saga_step t ON t.saga_id = s.id WHERE s.id = $1 \
                  ORDER BY t.compensating, CASE WHEN t.compensating THEN -t.step ELSE t.step END";
    let rows = client.query(select, &[&id, &"YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\""]).await?;
    let Some(saga) = rows.first() else { return Ok(None) };
    Ok(Some(SagaView {
        saga_id: saga.get("id"),
        saga_type: saga.get("type"),
        state: saga.get("state"),
        compensating: saga.get("compensating"),
        updated_at: saga.get("updated_at"),
        steps: rows.iter().filter_map(step).collect(),
    }))
}

fn step(row: &Row) -> Option<SagaStepView> {
    let (work, message_id): (Option<String>, Option<&str>) = (row.get("work"), row.get("message_id"));
    let (local, command) = if message_id.is_none() { (work, None) } else { (None, work) };
    Some(SagaStepView {
        step: row.get::<_, Option<i32>>("step")?,
        compensation: row.get("compensation"),
        local,
        command,
        reply: row.get("reply"),
        outcome: row.get("outcome"),
        began_at: row.get("began_at"),
        ended_at: row.get("ended_at"),
    })
}
