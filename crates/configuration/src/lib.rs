//! A TOML file and the environment as one tree, taken apart key by key, with every problem noted in one go.
//!
//! The mechanism that all programs share. The crate `config` parses and merges; names, ranges and defaults of keys belong to each program:
//! outboxd's are in `src/settings`. The folder `config/` holds a documented file for each program.
//!
//! Knows no key of any program. Opens no file but the configuration and those that a key ending in `_file` names.

#[cfg(any(test, feature = "documentation"))]
pub mod documentation;
mod literal;
mod problem;
mod reader;
mod secret;
mod tree;

use std::{cell::RefCell, collections::BTreeMap, path::Path};

pub use literal::Literal;
pub use problem::{Origin, Problem, SettingsError};
use reader::Report;
pub use reader::{Complaint, Section};

/// Where a program's configuration comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origins<'a> {
    /// The file; a program that can live on its environment may go without.
    pub file: Option<&'a Path>,
    /// The variables that override it begin with this; what follows is the key, `__` standing for the dot.
    pub prefix: &'static str,
    /// The environment; variables without the prefix are ignored.
    pub environment: &'a BTreeMap<String, String>,
}

/// The variables of this process that `wanted` picks by name.
///
/// # Errors
///
/// A [`Problem`] for each of them that is not UTF-8.
pub fn environment(wanted: impl Fn(&str) -> bool) -> (BTreeMap<String, String>, Vec<Problem>) {
    let mut environment = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.into_string().ok().filter(|name| wanted(name)) else { continue };
        match value.into_string() {
            Ok(value) => drop(environment.insert(name, value)),
            Err(_) => problems.push(Problem {
                origin: Origin::Variable(name),
                key: String::new(),
                what: "is not valid UTF-8".into(),
                cure: "set it to text".into(),
            }),
        }
    }
    (environment, problems)
}

/// Reads everything and has `make` make something of it; `None` of that means that a problem was noted, and a value may
/// come with problems, too.
///
/// # Errors
///
/// All problems that were noted.
pub fn read<T>(
    origins: &Origins<'_>,
    make: impl FnOnce(Section<'_>) -> Option<T>,
) -> Result<T, SettingsError> {
    let report = RefCell::new(Report::new(origins));
    let made = tree::read(origins)
        .map_err(|problem| report.borrow_mut().problems.push(problem))
        .ok()
        .and_then(|values| make(Section::root(&report, values)));
    match (made, report.into_inner().problems) {
        (Some(made), problems) if problems.is_empty() => Ok(made),
        (_, problems) => Err(SettingsError { problems }),
    }
}
