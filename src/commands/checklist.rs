//! What was looked at, and what came of it, as `check` and `setup` print it: a section for each source and one for the
//! broker, a line for each check, and below what is wrong another one with the cure.

use std::{error::Error, fmt};

use super::{Failure, chain, table::one_line};
use crate::{
    check::{Check, Problem, Verdict},
    rabbitmq::inspection,
    remedy::Remedy,
};

/// One check, of whichever room.
pub(super) struct Line {
    name: String,
    verdict: Verdict,
}

impl Line {
    pub(super) fn passed(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Passed(detail.into()) }
    }

    pub(super) fn warning(name: &str, what: impl Into<String>, cure: impl Into<String>) -> Self {
        let problem = Problem::new(what, Remedy::by_person(cure));
        Self { name: name.to_owned(), verdict: Verdict::Warning(problem) }
    }

    pub(super) fn failed(name: &str, what: impl Into<String>, cure: &str) -> Self {
        let problem = Problem::new(what, Remedy::by_person(cure));
        Self { name: name.to_owned(), verdict: Verdict::Failed(problem) }
    }

    /// A step that went wrong after everything had been checked.
    pub(super) fn error(name: &str, error: &dyn Error) -> Self {
        Self::failed(name, chain(error), "`outboxd check` tells more; then repeat the command")
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.verdict, Verdict::Failed(_))
    }
}

impl From<Check> for Line {
    fn from(check: Check) -> Self {
        Self { name: check.name.to_owned(), verdict: check.verdict }
    }
}

impl From<inspection::Check> for Line {
    fn from(check: inspection::Check) -> Self {
        let verdict = match check.finding {
            Ok(finding) => Verdict::Passed(finding),
            Err(inspection::Problem { what, cure }) if check.optional => {
                Verdict::Warning(Problem::new(what, Remedy::by_person(cure)))
            }
            Err(inspection::Problem { what, cure }) => {
                Verdict::Failed(Problem::new(what, Remedy::by_person(cure)))
            }
        };
        Self { name: check.name, verdict }
    }
}

/// The lines of one source, or of the broker.
pub(super) struct Section {
    title: String,
    lines: Vec<Line>,
}

impl Section {
    pub(super) fn new<L: Into<Line>>(title: impl Into<String>, lines: impl IntoIterator<Item = L>) -> Self {
        Self { title: title.into(), lines: lines.into_iter().map(Into::into).collect() }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.lines.iter().any(Line::has_failed)
    }

    /// Only what failed.
    pub(super) fn failures(mut self) -> Self {
        self.lines.retain(Line::has_failed);
        self
    }
}

/// A name that is longer pushes its finding to the right, and not those of all others.
const NAME_WIDTH_MAX: usize = 44;

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = self.lines.iter().map(|line| line.name.chars().count());
        let width = lengths.filter(|length| *length <= NAME_WIDTH_MAX).max().unwrap_or_default();
        writeln!(f, "{}", one_line(&self.title))?;
        for Line { name, verdict } in &self.lines {
            let (word, what, cure) = match verdict {
                Verdict::Passed(detail) => ("OK", detail, None),
                Verdict::Warning(Problem { what, cure, .. }) => ("warning", what, Some(cure)),
                Verdict::Failed(Problem { what, cure, .. }) => ("FAILED", what, Some(cure)),
            };
            writeln!(f, "  {word:<7}  {:<width$}  {}", one_line(name), one_line(what))?;
            if let Some(cure) = cure {
                writeln!(f, "           -> {}", one_line(cure))?;
            }
        }
        writeln!(f)
    }
}

/// The closing line. What failed makes the command fail.
pub(super) fn conclusion(sections: &[Section]) -> (String, Result<(), Failure>) {
    let lines = || sections.iter().flat_map(|section| &section.lines);
    let failed = lines().filter(|line| line.has_failed()).count();
    let warnings = lines().filter(|line| matches!(line.verdict, Verdict::Warning(_))).count();
    let text = format!("{} checks; failed: {failed}, warnings: {warnings}\n", lines().count());
    let result = match failed {
        0 => Ok(()),
        _ => Err(Failure::Runtime(format!("{failed} of {} checks failed", lines().count()))),
    };
    (text, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_aligned_and_cures_stand_below() {
        let warning = Verdict::Warning(Problem::new("old", Remedy::by_person("drop it")));
        let sections = [Section::new(
            "source orders",
            [
                Line::passed("slot", "is there"),
                Line { name: "inactive slots".into(), verdict: warning },
                Line::failed(&"x".repeat(50), "two\n  lines", "mend it"),
            ],
        )];
        let expected = format!(
            "source orders\n  OK       slot            is there\n  warning  inactive slots  old\n           -> drop it\n  \
             FAILED   {}  two\\n  lines\n           -> mend it\n\n",
            "x".repeat(50)
        );
        assert_eq!(sections[0].to_string(), expected);
        let (text, result) = conclusion(&sections);
        assert_eq!(text, "3 checks; failed: 1, warnings: 1\n");
        assert_eq!(result, Err(Failure::Runtime("1 of 3 checks failed".into())));
        let [section] = sections;
        assert_eq!(section.failures().to_string().lines().count(), 4);
    }
}
