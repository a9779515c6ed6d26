//! The orchestrator's pure core: a saga's state and an outcome give the next state, and so the work that is due.
//!
//! Knows steps and outcomes. Knows no database, no message and no time.

/// One step of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// `None`: the transaction that begins the saga has done it.
    pub action: Option<Work>,
    /// Undoes the action when a later step fails. `None`: nothing has to be undone.
    pub compensation: Option<Work>,
}

/// An action or a compensation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Work in the orchestrator's own database, in the transaction that moves the saga.
    Local(&'static str),
    /// Work of a participant.
    Command(Command),
}

/// A command to a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Channel of the participant's commands.
    pub channel: &'static str,
    /// Type of the command.
    pub command_type: &'static str,
    /// Types of its replies, and what each means. A compensation has replies that mean success, and no others.
    pub replies: &'static [(&'static str, Outcome)],
}

/// Outcome of a piece of work. A failure has changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The work is done.
    Success,
    /// The work cannot be done, and trying again does not help.
    Failure,
}

/// Status of a saga, the column `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Work is due, or a reply to a command.
    Running,
    /// All actions have succeeded.
    Completed,
    /// An action has failed, and those before it have been compensated.
    Compensated,
}

/// State of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SagaState {
    /// Number of the step whose work is due, or was the last; from 0.
    pub step: usize,
    /// Whether that work is the step's compensation.
    pub compensating: bool,
    /// Whether there is work to do.
    pub status: Status,
}

/// A compensation has failed, which it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a compensation cannot fail")]
pub struct CompensationFailed;

impl SagaState {
    /// The state in which a saga begins.
    pub fn begin(steps: &[Step]) -> Self {
        Self::forward(steps, 0)
    }

    /// The work that is due; `None` when the saga has ended, or has more steps than `steps`.
    pub fn due(self, steps: &[Step]) -> Option<Work> {
        let step = steps.get(self.step).filter(|_| self.status == Status::Running)?;
        if self.compensating { step.compensation } else { step.action }
    }

    /// The state that follows the outcome of the work that was due. A failure leads to the compensation of the steps before.
    ///
    /// # Errors
    ///
    /// The work was a compensation and has failed.
    pub fn after(self, steps: &[Step], outcome: Outcome) -> Result<Self, CompensationFailed> {
        match (self.compensating, outcome) {
            (false, Outcome::Success) => Ok(Self::forward(steps, self.step + 1)),
            (_, Outcome::Success) | (false, Outcome::Failure) => Ok(Self::backward(steps, self.step)),
            (true, Outcome::Failure) => Err(CompensationFailed),
        }
    }

    /// The next step from `step` on that has an action.
    fn forward(steps: &[Step], step: usize) -> Self {
        let next = (step..steps.len()).find(|&step| steps[step].action.is_some());
        let status = if next.is_some() { Status::Running } else { Status::Completed };
        Self { step: next.unwrap_or(steps.len().saturating_sub(1)), compensating: false, status }
    }

    /// The nearest step before `step` that has a compensation.
    fn backward(steps: &[Step], step: usize) -> Self {
        let next = (0..step).rev().find(|&step| steps[step].compensation.is_some());
        let status = if next.is_some() { Status::Running } else { Status::Compensated };
        Self { step: next.unwrap_or_default(), compensating: true, status }
    }
}

impl Work {
    /// Name of the local work, or type of the command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local(name) => name,
            Self::Command(command) => command.command_type,
        }
    }

    /// Meaning of a reply of this type; `None`: the work has no such reply.
    pub fn meaning(self, reply_type: &str) -> Option<Outcome> {
        self.replies().iter().find(|(known, _)| *known == reply_type).map(|(_, outcome)| *outcome)
    }

    /// Every reply that the work may have.
    pub fn replies(self) -> &'static [(&'static str, Outcome)] {
        match self {
            Self::Local(_) => &[],
            Self::Command(command) => command.replies,
        }
    }
}

impl Outcome {
    /// As headers, the database and JSON have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
        }
    }
}

impl Status {
    const ALL: [Self; 3] = [Self::Running, Self::Completed, Self::Compensated];

    /// As the database and JSON have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Compensated => "COMPENSATED",
        }
    }

    /// The opposite of [`name`](Self::name).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

#[cfg(test)]
mod tests;
