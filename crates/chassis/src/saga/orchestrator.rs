//! Row of a saga, which replies move: the state, the reply and the next command are one transaction.
//!
//! A reply moves a saga if it is the first one to the command that the saga waits for. A late or repeated reply changes nothing.
//! A reply of an unknown saga, or to an unknown command, becomes a dead letter.

use tokio_postgres::{Row, Transaction, types::Json};

use super::{Command, Definition, Outcome, SagaState, Sagas, Status, Work, headers};
use crate::{
    database::DatabaseError,
    inbox::{Handler, HandlingError, Message},
    outbox,
    trace::TraceContext,
};

/// Handler of the replies to a service's commands.
#[derive(Clone, Copy, Debug)]
pub struct Orchestrator<S>(pub S);

/// Locked row of a saga.
struct Saga<D> {
    id: i64,
    definition: Definition,
    state: SagaState,
    data: D,
}

/// Begins a saga in the caller's transaction, and returns its id. Local work is done up to the first command, which goes to the
/// outbox.
///
/// # Errors
///
/// [`HandlingError`] when the service has no saga of this type, or a statement fails.
pub async fn begin<S: Sagas>(
    sagas: &S,
    transaction: &mut Transaction<'_>,
    trace: &TraceContext,
    saga_type: &str,
    data: S::Data,
) -> Result<i64, HandlingError> {
    let definition = definition(sagas, saga_type)?;
    let state = SagaState::begin(definition.steps);
    let insert = "INSERT INTO public.saga (type, step, state, compensating, data) VALUES ($1, $2, $3, $4, $5) RETURNING id";
    let row = transaction
        .query_one(
            insert,
            &[
                &definition.saga_type,
                &number(state.step)?,
                &state.status.name(),
                &state.compensating,
                &Json(&data),
            ],
        )
        .await?;
    let id = row.get(0);
    advance(sagas, transaction, trace, Saga { id, definition, state, data }).await?;
    tracing::info!(saga_id = id, saga_type, "saga begun");
    Ok(id)
}

impl<S: Sagas> Handler for Orchestrator<S> {
    /// A reply that was handled before changes nothing.
    const TAKES_REPLAYS: bool = true;

    async fn handle(
        &self,
        transaction: &mut Transaction<'_>,
        message: &Message,
    ) -> Result<(), HandlingError> {
        let saga_id: i64 = message.parsed(headers::SAGA_ID)?;
        let in_reply_to = message.required(headers::IN_REPLY_TO)?;
        let reply_type = message.required(headers::REPLY_TYPE)?;
        let mut locked = lock(&self.0, transaction, saga_id).await?;
        if locked.is_none() && is_there_by_now(transaction, saga_id).await? {
            locked = lock(&self.0, transaction, saga_id).await?;
        }
        let Some(mut saga) = locked else { return Err(foreign(&format!("there is no saga {saga_id}"))) };
        let select = "SELECT reply FROM public.saga_step WHERE saga_id = $1 AND message_id = $2";
        let Some(row) = transaction.query_opt(select, &[&saga_id, &in_reply_to]).await? else {
            return Err(foreign(&format!("saga {saga_id} has sent no command {in_reply_to}")));
        };
        if let Some(first) = row.get::<_, Option<&str>>("reply") {
            tracing::info!(
                saga_id,
                in_reply_to,
                first,
                reply_type,
                "the command was answered before; nothing changes"
            );
            return Ok(());
        }
        let due = saga.state.due(saga.definition.steps);
        let outcome = due.and_then(|work| work.meaning(reply_type)).ok_or_else(|| {
            HandlingError::Permanent(format!("{reply_type} is no reply to what saga {saga_id} waits for"))
        })?;
        let stated = message.required(headers::OUTCOME)?;
        if stated != outcome.name() {
            return Err(HandlingError::Permanent(format!(
                "the reply {reply_type} means {}, and its header outcome says {stated}",
                outcome.name()
            )));
        }
        let update = "UPDATE public.saga_step SET reply = $3, outcome = $4, ended_at = clock_timestamp() \
                      WHERE saga_id = $1 AND message_id = $2";
        transaction.execute(update, &[&saga_id, &in_reply_to, &reply_type, &outcome.name()]).await?;
        self.0.replied(reply_type, &mut saga.data);
        saga.proceed(outcome)?;
        advance(&self.0, transaction, &message.trace, saga).await
    }
}

/// Does the work that is due until a command waits for its reply, or the saga has ended. Stores the state.
async fn advance<S: Sagas>(
    sagas: &S,
    transaction: &mut Transaction<'_>,
    trace: &TraceContext,
    mut saga: Saga<S::Data>,
) -> Result<(), HandlingError> {
    while let Some(work) = saga.state.due(saga.definition.steps) {
        let insert = "INSERT INTO public.saga_step (saga_id, step, compensating, work, message_id, outcome, ended_at) \
                      VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $5::text IS NULL THEN clock_timestamp() END)";
        let SagaState { step, compensating, .. } = saga.state;
        let (message_id, outcome) = match work {
            Work::Local(name) => (None, Some(sagas.local(transaction, trace, name, &mut saga.data).await?)),
            Work::Command(command) => (Some(send(sagas, transaction, trace, &saga, command).await?), None),
        };
        let stated = outcome.map(Outcome::name);
        transaction
            .execute(insert, &[&saga.id, &number(step)?, &compensating, &work.name(), &message_id, &stated])
            .await?;
        match outcome {
            Some(outcome) => saga.proceed(outcome)?,
            None => break,
        }
    }
    let SagaState { step, compensating, status } = saga.state;
    let update = "UPDATE public.saga SET step = $2, state = $3, compensating = $4, data = $5, version = version + 1, \
                  updated_at = clock_timestamp() WHERE id = $1";
    transaction
        .execute(update, &[&saga.id, &number(step)?, &status.name(), &compensating, &Json(&saga.data)])
        .await?;
    tracing::info!(saga_id = saga.id, step, compensating, state = status.name(), "saga moved");
    Ok(())
}

/// Writes a command to the outbox and returns its `message_id`. The saga is the aggregate, so its commands stay in order.
async fn send<S: Sagas>(
    sagas: &S,
    transaction: &Transaction<'_>,
    trace: &TraceContext,
    saga: &Saga<S::Data>,
    command: Command,
) -> Result<String, HandlingError> {
    let payload = sagas.command(command.command_type, &saga.data);
    let payload = payload.map_err(|error| unknown(&format!("the payload of a command ({error})")))?;
    let Command { channel, command_type, .. } = command;
    let saga_type = saga.definition.saga_type;
    let saga_id = saga.id.to_string();
    let headers = [
        (headers::COMMAND_TYPE, command_type),
        (headers::SAGA_TYPE, saga_type),
        (headers::SAGA_ID, &saga_id),
        (headers::REPLY_TO, S::REPLY_CHANNEL),
    ];
    let row = outbox::Row {
        channel,
        aggregate_type: saga_type,
        aggregate_id: &saga_id,
        message_type: command_type,
        headers: &headers,
        payload: &payload,
    };
    let message_id = outbox::write(transaction, trace, row).await?;
    tracing::info!(saga_type, saga_id, command_type, "command written");
    Ok(message_id)
}

/// Returns the saga, locked until the end of the transaction.
async fn lock<S: Sagas>(
    sagas: &S,
    transaction: &Transaction<'_>,
    id: i64,
) -> Result<Option<Saga<S::Data>>, HandlingError> {
    let select = "SELECT type, step, state, compensating, data FROM public.saga WHERE id = $1 FOR UPDATE";
    let Some(row) = transaction.query_opt(select, &[&id]).await? else { return Ok(None) };
    let definition = definition(sagas, row.get("type"))?;
    let state = state(&row).ok_or_else(|| unknown(&format!("the state of saga {id}")))?;
    let Json(data) =
        row.try_get("data").map_err(|error| unknown(&format!("the data of saga {id} ({error})")))?;
    Ok(Some(Saga { id, definition, state, data }))
}

fn state(row: &Row) -> Option<SagaState> {
    let step = usize::try_from(row.get::<_, i32>("step")).ok()?;
    Some(SagaState { step, compensating: row.get("compensating"), status: Status::named(row.get("state"))? })
}

/// Waits for the transaction that begins the saga, if it has not ended. Returns whether the saga exists now.
///
/// A reply may come before that transaction is visible: PostgreSQL decodes a transaction as soon as its commit is in the WAL.
/// An INSERT with the same key waits for the transaction. It is rolled back.
async fn is_there_by_now(transaction: &mut Transaction<'_>, id: i64) -> Result<bool, DatabaseError> {
    let attempt = transaction.transaction().await?;
    let insert = "INSERT INTO public.saga (id, type, step, state, compensating, data) OVERRIDING SYSTEM VALUE \
                  VALUES ($1, '', 0, 'RUNNING', false, '{}') ON CONFLICT DO NOTHING";
    let inserted = attempt.execute(insert, &[&id]).await?;
    attempt.rollback().await?;
    Ok(inserted == 0)
}

fn definition<S: Sagas>(sagas: &S, saga_type: &str) -> Result<Definition, HandlingError> {
    let known = sagas.definitions().iter().find(|definition| definition.saga_type == saga_type);
    known.copied().ok_or_else(|| unknown(&format!("the saga type '{saga_type}'")))
}

fn unknown(what: &str) -> HandlingError {
    HandlingError::Permanent(format!("this version of the service does not know {what}"))
}

fn foreign(why: &str) -> HandlingError {
    HandlingError::Permanent(format!(
        "{why}: the reply belongs to another service, or to a database that was made anew or set back"
    ))
}

fn number(step: usize) -> Result<i32, HandlingError> {
    i32::try_from(step).map_err(|_| HandlingError::Permanent(format!("step {step} is too many")))
}

impl<D> Saga<D> {
    fn proceed(&mut self, outcome: Outcome) -> Result<(), HandlingError> {
        let next = self.state.after(self.definition.steps, outcome);
        self.state = next.map_err(|error| HandlingError::Permanent(format!("saga {}: {error}", self.id)))?;
        Ok(())
    }
}
