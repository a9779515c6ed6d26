//! Output of `check` and `setup`: a section for each source and one for the broker, a line for each check, and below each problem a
//! line with the cure.

use std::fmt;

use super::{Failure, table::one_line};
use diagnostics::check::{Check, Finding, Problem};

/// The checks of one source, or of the broker.
pub(super) struct Section {
    title: String,
    checks: Vec<Check>,
}

impl Section {
    pub(super) fn new(title: impl Into<String>, checks: impl IntoIterator<Item = Check>) -> Self {
        Self { title: title.into(), checks: checks.into_iter().collect() }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.checks.iter().any(has_failed)
    }

    /// Keeps failed checks only.
    pub(super) fn failures(mut self) -> Self {
        self.checks.retain(has_failed);
        self
    }
}

fn has_failed(check: &Check) -> bool {
    check.failure().is_some()
}

/// Longest name that widens the column of names. A longer name shifts only its own line.
const NAME_WIDTH_MAX: usize = 44;

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = self.checks.iter().map(|check| check.name.chars().count());
        let width = lengths.filter(|length| *length <= NAME_WIDTH_MAX).max().unwrap_or_default();
        writeln!(f, "{}", one_line(&self.title))?;
        for Check { name, finding } in &self.checks {
            let (word, what, cure) = match finding {
                Finding::Passed(detail) => ("OK", detail, None),
                Finding::Warning(Problem { what, cure, .. }) => ("warning", what, Some(cure)),
                Finding::Failed(Problem { what, cure, .. }) => ("FAILED", what, Some(cure)),
            };
            writeln!(f, "  {word:<7}  {:<width$}  {}", one_line(name), one_line(what))?;
            if let Some(cure) = cure {
                writeln!(f, "           -> {}", one_line(cure))?;
            }
        }
        writeln!(f)
    }
}

/// The closing line, and the command's result: a failed check fails the command.
pub(super) fn conclusion(sections: &[Section]) -> (String, Result<(), Failure>) {
    let checks = || sections.iter().flat_map(|section| &section.checks);
    let failed = checks().filter(|check| has_failed(check)).count();
    let warnings = checks().filter(|check| check.as_warning().is_some()).count();
    let text = format!("{} checks; failed: {failed}, warnings: {warnings}\n", checks().count());
    let result = match failed {
        0 => Ok(()),
        _ => Err(Failure::Runtime(format!("{failed} of {} checks failed", checks().count()))),
    };
    (text, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_aligned_and_cures_stand_below() {
        let sections = [Section::new(
            "source orders",
            [
                Check::passed("slot", "is there"),
                Check::warning("inactive slots", "old", "drop it"),
                Check::failed("x".repeat(50), "two\n  lines", "mend it"),
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
