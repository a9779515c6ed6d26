//! Tree of values from the file and the environment. Knows no key.

use std::{collections::BTreeMap, path::Path};

use config::{Config, Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::{Origin, Origins, Problem};

/// Reads the file, if there is one, and overrides it by the environment.
pub(crate) fn read(origins: &Origins<'_>) -> Result<BTreeMap<String, Value>, Problem> {
    let problem = |what: String, cure: &str| Problem {
        origin: Origin::File(origins.file.unwrap_or(Path::new("the environment")).to_owned()),
        key: String::new(),
        what,
        cure: cure.to_owned(),
    };
    let text = origins.file.map_or(Ok(String::new()), ::secret::text_of).map_err(|error| {
        problem(
            format!("cannot be read: {error}"),
            "name the file with --config, or /dev/null if the environment holds the whole configuration",
        )
    })?;
    let ours = origins
        .environment
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(origins.prefix)?.to_owned(), value.clone())));
    let environment = Environment::default().separator("__").source(Some(ours.collect()));
    let collected = |source: Config| source.collect();
    let file =
        Config::builder().add_source(File::from_str(&text, FileFormat::Toml)).build().and_then(collected);
    let file =
        file.map_err(|error| problem(without_excerpt(&error.to_string()), "correct the TOML there"))?;
    let environment = Config::builder().add_source(environment).build().and_then(collected);
    let environment = environment.map_err(|error| {
        let what = format!("the variables that begin with {} cannot be read: {error}", origins.prefix);
        problem(what, "correct their names: a key, two underscores for each dot")
    })?;
    let mut values = Value::new(None, ValueKind::Table(file));
    lay_over(&mut values, Value::new(None, ValueKind::Table(environment)));
    match values.kind {
        ValueKind::Table(values) => Ok(values.into_iter().collect()),
        _ => Ok(BTreeMap::new()),
    }
}

/// Replaces the values of `under` by those of `over`, table by table. `SUBSCRIPTIONS__0__QUEUE` is a key of an
/// array's first table. A number beyond the last one adds a table.
fn lay_over(under: &mut Value, over: Value) {
    let origin = over.origin().map(str::to_owned);
    match (&mut under.kind, over.kind) {
        (ValueKind::Table(under), ValueKind::Table(over)) => {
            for (key, value) in over {
                match under.get_mut(&key) {
                    Some(there) => lay_over(there, value),
                    None => drop(under.insert(key, value)),
                }
            }
        }
        (ValueKind::Array(items), ValueKind::Table(over)) if is_numbered(&over) => {
            for (number, value) in in_order(over) {
                match items.get_mut(number) {
                    Some(there) => lay_over(there, value),
                    None => items.push(value),
                }
            }
        }
        (_, kind) => *under = Value::new(origin.as_ref(), kind),
    }
}

/// Tells whether a table stands for an array, as from the environment.
pub(super) fn is_numbered(table: &Map<String, Value>) -> bool {
    !table.is_empty() && table.keys().all(|key| key.parse::<usize>().is_ok())
}

/// Returns the tables of such an array with their numbers, in order.
pub(super) fn in_order(table: Map<String, Value>) -> Vec<(usize, Value)> {
    let numbered = table.into_iter().filter_map(|(key, value)| Some((key.parse().ok()?, value)));
    let mut items: Vec<(usize, Value)> = numbered.collect();
    items.sort_by_key(|(number, _)| *number);
    items
}

/// Tells whether a value comes from the environment. Values of the file have no origin, because they are parsed from
/// text.
pub(super) fn is_from_environment(value: &Value) -> bool {
    value.origin().is_some()
}

/// Reduces a syntax error to place and message, because the quoted line may hold a password.
///
/// The parser's text is a line with the place, three lines of excerpt, and the message.
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
