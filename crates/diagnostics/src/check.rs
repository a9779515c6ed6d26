//! A check: what was looked at and what came of it, with a cure for everything that is wrong.

use std::{borrow::Cow, fmt};

use crate::remedy::{Mender, Remedy};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, such as `wal_level`.
    pub name: Cow<'static, str>,
    /// Result of the look.
    pub finding: Finding,
}

/// Result of a [`Check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// All is well; tells what is there.
    Passed(String),
    /// `run` works, and somebody should know.
    Warning(Problem),
    /// `run` cannot work.
    Failed(Problem),
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// The statement or the act that mends it.
    pub cure: String,
    /// Who mends it.
    pub mender: Mender,
}

impl Problem {
    /// A problem and its remedy.
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
    /// A check that found all well.
    pub fn passed(name: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Check { name: name.into(), finding: Finding::Passed(detail.into()) }
    }

    /// A check that found what somebody should know.
    pub fn warning(
        name: impl Into<Cow<'static, str>>,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Check { name: name.into(), finding: Finding::Warning(Problem::new(what, Remedy::by_person(cure))) }
    }

    /// A failure that stays until somebody follows the cure: `run` is `halted` for it.
    pub fn failed(
        name: impl Into<Cow<'static, str>>,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Check { name: name.into(), finding: Finding::Failed(Problem::new(what, Remedy::by_person(cure))) }
    }

    /// A failure that may pass by itself: `run` is `connecting` for it.
    pub fn failed_for_now(
        name: impl Into<Cow<'static, str>>,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Check { name: name.into(), finding: Finding::Failed(Problem::new(what, Remedy::by_time(cure))) }
    }

    /// What somebody should know, if `run` works all the same.
    pub fn as_warning(&self) -> Option<&Problem> {
        match &self.finding {
            Finding::Warning(problem) => Some(problem),
            Finding::Passed(_) | Finding::Failed(_) => None,
        }
    }

    /// What stops `run`, if this does.
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
