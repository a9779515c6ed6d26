//! Sagas by orchestration: one service sends commands to the others, step by step, and undoes the steps when one fails.
//!
//! ```text
//! begin ─> step 1 ─> step 2 ─> step 3      each is local work, or a command and its reply
//!             ▲         ▲         │
//!             └─────────┴── failure        compensations, in reverse order
//! ```
//!
//! `state` is the pure core. `orchestrator` keeps a saga's state in a row, which changes in the transaction that handles the
//! reply and writes the next command. `participant` is the other end of a command. `view` shows a saga, and `silence` counts
//! the sagas that wait for a reply for too long.
//!
//! This module does not know the steps of any service: an implementation of [`Sagas`] has them.

mod orchestrator;
pub mod participant;
mod silence;
mod state;
mod view;

pub use orchestrator::{Orchestrator, begin};
pub(super) use silence::{Silence, watch};
pub use state::{Command, CompensationFailed, Outcome, SagaState, Status, Step, Work};
pub use view::{SagaStepView, SagaView, find};

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio_postgres::Transaction;

use super::{inbox::HandlingError, trace::TraceContext};

/// Type of saga.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Type of the saga, in its row and in headers.
    pub saga_type: &'static str,
    /// Steps in their order. They may change only while no saga of this type runs: a row names its step by number.
    pub steps: &'static [Step],
}

impl Definition {
    /// Returns the commands of all actions and compensations.
    pub fn commands(&self) -> impl Iterator<Item = Command> {
        let works = self.steps.iter().flat_map(|step| [step.action, step.compensation]);
        works.flatten().filter_map(|work| match work {
            Work::Command(command) => Some(command),
            Work::Local(_) => None,
        })
    }

    /// Returns the types of all replies to the commands of the saga.
    pub fn reply_types(&self) -> impl Iterator<Item = &'static str> {
        self.commands().flat_map(|command| command.replies).map(|(reply_type, _)| *reply_type)
    }
}

/// Sagas of a service, and their work in the service's own database.
pub trait Sagas: Send + Sync + 'static {
    /// Channel of the replies: an exchange, and a queue of the same name.
    const REPLY_CHANNEL: &'static str;

    /// Data of a saga, a JSON object in its row.
    type Data: Serialize + DeserializeOwned + Debug + Send + Sync;

    /// Returns every type of saga that the service begins.
    fn definitions(&self) -> &[Definition];

    /// Returns the payload of a command.
    ///
    /// # Errors
    ///
    /// [`serde_json::Error`] when the payload cannot be JSON.
    fn command(&self, command_type: &str, data: &Self::Data) -> serde_json::Result<Box<RawValue>>;

    /// Notes in `data` what later steps need to know of a reply.
    fn replied(&self, reply_type: &str, data: &mut Self::Data);

    /// Does the local work `name`. Work that fails leaves the database unchanged.
    fn local(
        &self,
        transaction: &mut Transaction<'_>,
        trace: &TraceContext,
        name: &str,
        data: &mut Self::Data,
    ) -> impl Future<Output = Result<Outcome, HandlingError>> + Send;
}

/// Script that creates an orchestrator's tables, for the migrations of its service.
///
/// `saga.step` counts from 0. `saga_step` has a row for each action and compensation that was begun. Its `message_id` is that of
/// the command, which the reply names; NULL for local work. Ids begin at the time at which the table was created: a new
/// database repeats no id of a saga whose replies may still come.
pub const TABLES: &str = "
CREATE TABLE public.saga (
  id           bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  type         text NOT NULL,
  step         integer NOT NULL,
  state        text NOT NULL CHECK (state IN ('RUNNING', 'COMPLETED', 'COMPENSATED')),
  compensating boolean NOT NULL,
  data         jsonb NOT NULL,
  version      bigint NOT NULL DEFAULT 1,
  updated_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX saga_running ON public.saga (updated_at) WHERE state = 'RUNNING';
CREATE TABLE public.saga_step (
  saga_id      bigint NOT NULL REFERENCES public.saga,
  step         integer NOT NULL,
  compensating boolean NOT NULL,
  work         text NOT NULL,
  message_id   text,
  reply        text,
  outcome      text CHECK (outcome IN ('SUCCESS', 'FAILURE')),
  began_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at     timestamptz,
  PRIMARY KEY (saga_id, step, compensating)
);
SELECT setval(pg_get_serial_sequence('public.saga', 'id'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
";

/// Headers of commands and replies, and of events that a saga coordinates.
pub mod headers {
    /// Type of a command.
    pub const COMMAND_TYPE: &str = "command-type";
    /// Type of the saga.
    pub const SAGA_TYPE: &str = "saga-type";
    /// Id of the saga.
    pub const SAGA_ID: &str = "saga-id";
    /// Channel of a command's reply.
    pub const REPLY_TO: &str = "reply-to";
    /// Type of a reply.
    pub const REPLY_TYPE: &str = "reply-type";
    /// The `message_id` of the command that a reply answers.
    pub const IN_REPLY_TO: &str = "in-reply-to";
    /// `SUCCESS` or `FAILURE`.
    pub const OUTCOME: &str = "outcome";
}
