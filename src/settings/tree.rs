//! File and environment as one tree of values. Knows no key.

use std::{collections::BTreeMap, path::Path};

use config::{Config, Environment, File, FileFormat, Source, Value};

use super::{ENVIRONMENT_PREFIX, Origin, Problem};

/// Reads the file and lays the environment over it.
pub(super) fn read(
    file: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Value>, Problem> {
    let problem = |what: String, cure: &str| Problem {
        origin: Origin::File(file.to_owned()),
        key: String::new(),
        what,
        cure: cure.to_owned(),
    };
    let text = std::fs::read_to_string(file).map_err(|error| {
        problem(
            format!("cannot be read: {error}"),
            "name the file with --config or OUTBOXD_CONFIG; /dev/null will do when the environment says everything",
        )
    })?;
    let ours = environment.iter().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX));
    let environment = Environment::with_prefix(ENVIRONMENT_PREFIX.trim_end_matches('_'))
        .prefix_separator("__")
        .separator("__")
        .source(Some(ours.map(|(name, value)| (name.clone(), value.clone())).collect()));
    Config::builder()
        .add_source(File::from_str(&text, FileFormat::Toml))
        .add_source(environment)
        .build()
        .and_then(|config| config.collect())
        .map(|values| values.into_iter().collect())
        .map_err(|error| problem(without_excerpt(&error.to_string()), "correct the TOML there"))
}

/// Whether the environment gave this value; the file's values have no origin, being parsed from text.
pub(super) fn is_from_environment(value: &Value) -> bool {
    value.origin().is_some()
}

/// A syntax error quotes the line it is in, which may hold a password: keeps place and message only.
///
/// The parser's text is a line with the place, three of excerpt, and the message.
fn without_excerpt(error: &str) -> String {
    let lines: Vec<&str> = error.lines().collect();
    let place = lines.iter().position(|line| line.contains("TOML parse error at line "));
    let kept: Vec<&str> = match place {
        Some(place) => {
            [lines[place].trim_start()].into_iter().chain(lines.into_iter().skip(place + 4)).collect()
        }
        None => lines.into_iter().take(1).collect(),
    };
    kept.join(": ")
}
