//! Pure core of the orchestrator: the state of a saga and an outcome give the next state, and the work that is due.
//!
//! This module knows steps and outcomes. It knows no database, no message and no time.

/// Step of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Work of the step. `None`: the transaction that begins the saga has done it.
    pub action: Option<Work>,
    /// Work that undoes the action when a later step fails. `None`: nothing has to be undone.
    pub compensation: Option<Work>,
}

/// Action or compensation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Work in the orchestrator's own database, in the transaction that moves the saga.
    Local(&'static str),
    /// Work of a participant.
    Command(Command),
}

/// Command to a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Channel of the participant's commands.
    pub channel: &'static str,
    /// Type of the command.
    pub command_type: &'static str,
    /// Types of the replies, each with its meaning. Every reply to a compensation means success.
    pub replies: &'static [(&'static str, Outcome)],
}

/// Outcome of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The work is done.
    Success,
    /// The work cannot be done, and has changed nothing. A retry does not help.
    Failure,
}

/// Status of a saga, the column `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The saga works, or waits for a reply.
    Running,
    /// All actions succeeded.
    Completed,
    /// An action failed, and the steps before it are compensated.
    Compensated,
}

/// State of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SagaState {
    /// Number of the step that is due, or was the last one; from 0.
    pub step: usize,
    /// Set when the step's compensation is due, not its action.
    pub compensating: bool,
    /// Status.
    pub status: Status,
}

/// Failure of a compensation, which no definition allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a compensation cannot fail")]
pub struct CompensationFailed;

impl SagaState {
    /// Returns the state in which a saga begins.
    pub fn begin(steps: &[Step]) -> Self {
        Self::forward(steps, 0)
    }

    /// Returns the work that is due; `None` when the saga has ended, or when `steps` lacks its step.
    pub fn due(self, steps: &[Step]) -> Option<Work> {
        let step = steps.get(self.step).filter(|_| self.status == Status::Running)?;
        if self.compensating { step.compensation } else { step.action }
    }

    /// Returns the state after the work that was due. A failure starts the compensations of the steps before.
    ///
    /// # Errors
    ///
    /// [`CompensationFailed`] when that work was a compensation, and failed.
    pub fn after(self, steps: &[Step], outcome: Outcome) -> Result<Self, CompensationFailed> {
        match (self.compensating, outcome) {
            (false, Outcome::Success) => Ok(Self::forward(steps, self.step + 1)),
            (_, Outcome::Success) | (false, Outcome::Failure) => Ok(Self::backward(steps, self.step)),
            (true, Outcome::Failure) => Err(CompensationFailed),
        }
    }

    /// Moves to the next step from `step` on that has an action.
    fn forward(steps: &[Step], step: usize) -> Self {
        let next = (step..steps.len()).find(|&step| steps[step].action.is_some());
        let status = if next.is_some() { Status::Running } else { Status::Completed };
        Self { step: next.unwrap_or(steps.len().saturating_sub(1)), compensating: false, status }
    }

    /// Moves to the nearest step before `step` that has a compensation.
    fn backward(steps: &[Step], step: usize) -> Self {
        let next = (0..step).rev().find(|&step| steps[step].compensation.is_some());
        let status = if next.is_some() { Status::Running } else { Status::Compensated };
        Self { step: next.unwrap_or_default(), compensating: true, status }
    }
}

impl Work {
    /// Returns the name of the local work, or the type of the command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local(name) => name,
            Self::Command(command) => command.command_type,
        }
    }

    /// Returns the meaning of a reply; `None` when the work has no such reply.
    pub fn meaning(self, reply_type: &str) -> Option<Outcome> {
        self.replies().iter().find(|(known, _)| *known == reply_type).map(|(_, outcome)| *outcome)
    }

    /// Returns every reply that the work may have.
    pub fn replies(self) -> &'static [(&'static str, Outcome)] {
        match self {
            Self::Local(_) => &[],
            Self::Command(command) => command.replies,
        }
    }
}

impl Outcome {
    /// Returns the name in headers, the database and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
        }
    }
}

impl Status {
    const ALL: [Self; 3] = [Self::Running, Self::Completed, Self::Compensated];

    /// Returns the name in the database and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Compensated => "COMPENSATED",
        }
    }

    /// Returns the status of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

#[cfg(test)]
mod tests;
