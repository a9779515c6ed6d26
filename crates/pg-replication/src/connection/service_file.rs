//! Service file (manual, "The Connection Service File"): the options of the connection string's `service`.
//!
//! Reads the given file, else `$PGSERVICEFILE`, else `~/.pg_service.conf`; then the system's `pg_service.conf` in
//! `$PGSYSCONFDIR` or in Debian's directory.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{
    connection_string::{self, Options},
    endpoint_error::EndpointError,
};

const SYSTEM_DIRECTORY: &str = "/etc/postgresql-common";

/// Returns the options, with missing ones filled in from their service.
pub(crate) fn completed(mut options: Options) -> Result<Options, EndpointError> {
    let Some(service) = options.remove("service").filter(|name| !name.is_empty()) else { return Ok(options) };
    let named = options.remove("servicefile").filter(|path| !path.is_empty()).map(PathBuf::from);
    for file in files(named) {
        let text = match secret::text_of(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(problem(&service, format!("{} cannot be read: {error}", file.display())));
            }
        };
        if let Some(found) = section(&service, &file, &text)? {
            for (name, value) in found {
                options.entry(name).or_insert(value);
            }
            return Ok(options);
        }
    }
    Err(problem(&service, "no service file has a section of this name".to_owned()))
}

fn problem(service: &str, problem: String) -> EndpointError {
    EndpointError::Service { service: service.to_owned(), problem }
}

fn files(named: Option<PathBuf>) -> impl Iterator<Item = PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = named
        .or_else(|| variable("PGSERVICEFILE"))
        .or_else(|| env::home_dir().map(|home| home.join(".pg_service.conf")));
    let system = variable("PGSYSCONFDIR").unwrap_or_else(|| SYSTEM_DIRECTORY.into()).join("pg_service.conf");
    user.into_iter().chain([system])
}

/// Returns the options below `[service]`, `None` without such a section. The first of two options with one name
/// counts.
fn section(service: &str, file: &Path, text: &str) -> Result<Option<Options>, EndpointError> {
    let mut lines = text.lines().map(str::trim).enumerate();
    let heading = format!("[{service}]");
    if !lines.any(|(_, line)| line == heading) {
        return Ok(None);
    }
    let mut options = Options::new();
    for (number, line) in lines.take_while(|(_, line)| !line.starts_with('[')) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what| problem(service, format!("{}, line {}: {what}", file.display(), number + 1));
        let Some((name, value)) = line.split_once('=') else { return Err(wrong("expected option=value")) };
        let name = connection_string::checked_name(name.trim())
            .map_err(|_| wrong("the text before the '=' is not an option's name"))?;
        if matches!(name, "service" | "servicefile") {
            return Err(wrong("a service cannot refer to another service"));
        }
        options.entry(name.to_owned()).or_insert_with(|| value.trim().to_owned());
    }
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn read(text: &str, service: &str) -> Result<Options, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let given = format!("service={service} servicefile='{}' user=me", file.path().display());
        completed(connection_string::parse(&given).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_section_fills_in_what_is_missing() {
        let text = "# ours\n[other]\nhost=elsewhere\n\n[orders]\nhost=db\nport=6432\n# mine\nuser=not-me\nhost=late\n[x]\nport=1";
        let options = read(text, "orders").unwrap();
        let expected = [("host", "db"), ("port", "6432"), ("user", "me")];
        assert!(options.iter().map(|(name, value)| (&**name, &**value)).eq(expected), "{options:?}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_without_its_value() {
        for (text, expected) in [
            ("[other]\nhost=h", "no service file has a section of this name"),
            ("[orders]\nhost", "line 2: expected option=value"),
            ("[orders]\nhost=h\nservice=s3cret", "line 3: a service cannot refer"),
            ("[orders]\npass word=s3cret", "line 2: the text before the '=' is not an option's name"),
        ] {
            let error = read(text, "orders").unwrap_err();
            assert!(error.contains(expected) && error.contains("orders"), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
