//! File and environment as one tree of values. Knows no key.

use std::{collections::BTreeMap, path::Path};

use config::{Config, Environment, File, FileFormat, Source, Value};

use super::{Origin, Origins, Problem};

/// Reads the file, if there is one, and lays the environment over it.
pub(crate) fn read(origins: &Origins<'_>) -> Result<BTreeMap<String, Value>, Problem> {
    let problem = |what: String, cure: &str| Problem {
        origin: Origin::File(origins.file.unwrap_or(Path::new("the environment")).to_owned()),
        key: String::new(),
        what,
        cure: cure.to_owned(),
    };
    let text = origins.file.map_or(Ok(String::new()), super::text_of).map_err(|error| {
        problem(
            format!("cannot be read: {error}"),
            "name the file with --config; /dev/null will do when the environment says everything",
        )
    })?;
    let ours = origins
        .environment
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(origins.prefix)?.to_owned(), value.clone())));
    let environment = Environment::default().separator("__").source(Some(ours.collect()));
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
