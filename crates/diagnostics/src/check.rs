//! Checks: an object, its finding, and a cure for each problem.

use std::{borrow::Cow, fmt};

use crate::remedy::{Mender, Remedy};

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Name of the checked object, such as `wal_level`.
    pub name: Cow<'static, str>,
    /// The finding.
    pub finding: Finding,
}

/// Result of a [`Check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// No problem. Describes what was found.
    Passed(String),
    /// `run` works, but an operator should know.
    Warning(Problem),
    /// `run` cannot work.
    Failed(Problem),
}

/// Problem with its cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The problem.
    pub what: String,
    /// The statement or command that solves the problem.
    pub cure: String,
    /// Solver of the problem: a person or time.
    pub mender: Mender,
}

impl Problem {
    /// Creates a problem from its remedy.
    pub fn new(what: impl Into<String>, Remedy { cure, mender }: Remedy) -> Self {
        Self { what: what.into(), cure, mender }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cure)
    }
}

impl Check {
    /// Creates a check without a problem.
    pub fn passed(name: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Check { name: name.into(), finding: Finding::Passed(detail.into()) }
    }

    /// Creates a check with a warning.
    pub fn warning(
        name: impl Into<Cow<'static, str>>,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Check { name: name.into(), finding: Finding::Warning(Problem::new(what, Remedy::by_person(cure))) }
    }

    /// Creates a failure that lasts until a person applies the cure: `run` is `halted`.
    pub fn failed(
        name: impl Into<Cow<'static, str>>,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Check { name: name.into(), finding: Finding::Failed(Problem::new(what, Remedy::by_person(cure))) }
    }

    /// Creates a failure that may end by itself: `run` is `connecting`.
    pub fn failed_for_now(
        name: impl Into<Cow<'static, str>>,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Check { name: name.into(), finding: Finding::Failed(Problem::new(what, Remedy::by_time(cure))) }
    }

    /// Returns the problem of a warning.
    pub fn as_warning(&self) -> Option<&Problem> {
        match &self.finding {
            Finding::Warning(problem) => Some(problem),
            Finding::Passed(_) | Finding::Failed(_) => None,
        }
    }

    /// Returns the problem of a failure.
    pub fn failure(&self) -> Option<&Problem> {
        match &self.finding {
            Finding::Failed(problem) => Some(problem),
            Finding::Passed(_) | Finding::Warning(_) => None,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.finding {
            Finding::Passed(detail) => write!(f, "OK       {}: {detail}", self.name),
            Finding::Warning(Problem { what, cure, .. }) => {
                write!(f, "warning  {}: {what}; {cure}", self.name)
            }
            Finding::Failed(Problem { what, cure, .. }) => {
                write!(f, "FAILED   {}: {what}; {cure}", self.name)
            }
        }
    }
}
