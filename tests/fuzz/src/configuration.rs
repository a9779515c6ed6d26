//! Any file and any environment give settings or a list of problems, and neither shows a secret.
//!
//! An input is the file's text, then variables as `NAME=value`, separated by zero bytes.

use std::{cell::RefCell, collections::BTreeMap};

use config::{Config, File, FileFormat, Value, ValueKind};
use outboxd::settings::load_with;
use pg_replication::Endpoint;

/// Marks a password, wherever one can be given.
const SECRET: &str = "hunter2";

thread_local! {
    /// The file is written again for each input.
    static FILE: RefCell<std::path::PathBuf> = RefCell::new(
        std::env::temp_dir().join(format!("outboxd-fuzz-{}-{:?}.toml", std::process::id(), std::thread::current().id())),
    );
}

/// Checks the module's property for an input.
pub fn holds(input: &[u8]) {
    let mut parts = input.split(|byte| *byte == 0);
    let file = parts.next().unwrap_or_default();
    let variables = parts.filter_map(|part| str::from_utf8(part).ok()?.split_once('='));
    let environment: BTreeMap<String, String> =
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();

    let loaded = FILE.with_borrow(|path| {
        std::fs::write(path, file).expect("written");
        load_with(Some(path), &environment)
    });
    let shown = match loaded {
        Ok(settings) => {
            assert!(!settings.sources.is_empty());
            format!("{settings:?}")
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            for problem in &error.problems {
                assert!(!problem.what.is_empty() && !problem.cure.is_empty(), "{problem:?}");
            }
            format!("{error} {error:?}")
        }
    };
    if nothing_else_holds_the_secret(file, &environment) {
        assert!(!shown.contains(SECRET), "{shown}");
    }
}

/// Tells whether the word is only in secrets. A problem may show it elsewhere, for instance in a queue's name.
fn nothing_else_holds_the_secret(file: &[u8], environment: &BTreeMap<String, String>) -> bool {
    let Ok(text) = str::from_utf8(file) else { return true };
    let in_file = Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .build()
        .and_then(Config::try_deserialize::<BTreeMap<String, Value>>)
        .map(|values| values.iter().map(|(key, value)| secrets(&[key], value)).sum::<usize>());
    // No problem may show any part of a file that cannot be parsed.
    let file_is_clean = in_file.map_or(true, |secret| secret == count(text));
    let environment_is_clean = environment.iter().all(|(name, value)| {
        let key = name.strip_prefix("OUTBOXD__").unwrap_or_default().to_lowercase();
        let path: Vec<&str> = key.split("__").collect();
        // Names are shown, and their keys in lower case.
        count(&name.to_lowercase()) == 0 && count(value) == secrets(&path, &Value::from(value.as_str()))
    });
    file_is_clean && environment_is_clean
}

/// Number of occurrences of the word in secrets, in a value at this place of the configuration.
fn secrets(path: &[&str], value: &Value) -> usize {
    match (&value.kind, path) {
        (ValueKind::Table(table), _) => {
            table.iter().map(|(key, value)| secrets(&[path, &[key]].concat(), value)).sum()
        }
        (ValueKind::Array(items), _) => items.iter().map(|item| secrets(path, item)).sum(),
        (ValueKind::String(text), ["rabbitmq", "password"] | ["sources", _, "postgres", "password"]) => {
            count(text)
        }
        (ValueKind::String(url), ["rabbitmq", "url" | "urls"] | ["sources", _, "postgres", "url"]) => {
            // Host, database and other parts may be shown once they are parsed.
            if Endpoint::parse(url).is_ok() || path[0] == "rabbitmq" { password(url) } else { count(url) }
        }
        _ => 0,
    }
}

/// Number of occurrences of the word in the password of a URL.
fn password(url: &str) -> usize {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    user.split_once(':').map_or(0, |(_, password)| count(password))
}

fn count(text: &str) -> usize {
    text.matches(SECRET).count()
}
