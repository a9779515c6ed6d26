//! Configuration from a TOML file and the environment: one tree, read key by key, with all problems reported
//! together.
//!
//! All programs share this mechanism. The crate `config` parses and merges. Each program defines the names, ranges
//! and defaults of its keys: outboxd's are in `src/settings`. The folder `config/` holds a documented file for each
//! program.
//!
//! Knows no program's keys. Opens only the configuration file and the files named by keys that end in `_file`.

#[cfg(any(test, feature = "documentation"))]
pub mod documentation;
mod key;
mod literal;
mod problem;
mod reader;
mod secret;
mod tree;

use std::{cell::RefCell, collections::BTreeMap, path::Path};

pub use key::{Key, Kind};
pub use literal::Literal;
pub use problem::{Origin, Problem, SettingsError};
use reader::Report;
pub use reader::{Complaint, Section};

/// Sources of a program's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Origins<'a> {
    /// The file. Optional for a program that needs only its environment.
    pub file: Option<&'a Path>,
    /// Prefix of the variables that override the file. The key follows, with `__` for a dot.
    pub prefix: &'static str,
    /// The environment. Variables without the prefix are ignored.
    pub environment: &'a BTreeMap<String, String>,
}

/// Returns the process's variables whose names `wanted` selects.
///
/// # Errors
///
/// A [`Problem`] for each variable that is not UTF-8.
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

/// Reads the configuration and builds a value from it by `make`. `make` returns `None` when it has noted a problem; a
/// value may come with problems, too.
///
/// # Errors
///
/// [`SettingsError`] with all problems.
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
