//! Password file, `~/.pgpass` or `passfile` (manual, "The Password File"): one line
//! `host:port:database:user:password` for each server.
//!
//! Every connection reads the file again. As in libpq, a file that others may read is not used; unlike in libpq, the
//! failed login says so.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Socket directories that libpq matches with `localhost`: the defaults of the project and of the distributions.
const SOCKET_DIRECTORIES: [&str; 3] = ["/tmp", "/var/run/postgresql", "/run/postgresql"];

/// The login that needs a password.
pub(crate) struct Login<'a> {
    /// Host name, address, or directory of a Unix socket.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
}

/// Returns the file's path: the given one, else `$PGPASSFILE`, else `~/.pgpass`.
pub(crate) fn path(named: Option<&str>) -> Option<PathBuf> {
    let variable = || env::var_os("PGPASSFILE").filter(|value| !value.is_empty()).map(PathBuf::from);
    named.map(PathBuf::from).or_else(variable).or_else(|| {
        env::home_dir().filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(".pgpass"))
    })
}

/// Returns the password, or the reason why there is none.
pub(crate) fn password(path: &Path, login: &Login<'_>) -> Result<String, String> {
    let name = path.display();
    let facts =
        path.metadata().map_err(|error| format!("the password file {name} cannot be read: {error}"))?;
    if !facts.is_file() {
        return Err(format!("the password file {name} is not used: it is not a regular file"));
    }
    let mode = facts.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "the password file {name} is not used: its mode {mode:04o} gives others access; run chmod 0600"
        ));
    }
    let text =
        secret::text_of(path).map_err(|error| format!("the password file {name} cannot be read: {error}"))?;
    text.lines().find_map(|line| matching(line, login)).ok_or_else(|| {
        let Login { host, port, database, user } = login;
        format!("the password file {name} has no line for {host}:{port}:{database}:{user}")
    })
}

/// Returns the line's password if the line matches the login.
fn matching(line: &str, login: &Login<'_>) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let port = login.port.to_string();
    let mut rest = line;
    for wanted in [login.host, &port, login.database, login.user] {
        let (field, after) = field(rest)?;
        let local = wanted == login.host && SOCKET_DIRECTORIES.contains(&wanted) && field == "localhost";
        // An escaped asterisk is a literal one.
        let any = rest.starts_with("*:");
        if !any && field != wanted && !local {
            return None;
        }
        rest = after;
    }
    let mut password = String::new();
    let mut chars = rest.chars();
    while let Some(char) = chars.next() {
        password.push(if char == '\\' { chars.next().unwrap_or(char) } else { char });
    }
    Some(password)
}

/// Returns the field up to the next colon, with `\:` and `\\` unescaped, and the rest after the colon.
fn field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut chars = text.char_indices();
    while let Some((index, char)) = chars.next() {
        match char {
            ':' => return Some((field, &text[index + 1..])),
            '\\' => field.extend(chars.next().map(|(_, escaped)| escaped)),
            other => field.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LOGIN: Login<'_> = Login { host: "db.example", port: 5432, database: "orders", user: "me:too" };

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        for (text, expected) in [
            ("db.example:5432:orders:me\\:too:pass:word\\\\\\:", Some("pass:word\\:")),
            ("#db.example:*:*:*:no\n*:*:*:*:any", Some("any")),
            ("other:*:*:*:no\ndb.example:*:orders:*:yes\n*:*:*:*:late", Some("yes")),
            ("db.example:5433:*:*:no", None),
            ("\\*:*:*:*:no", None),
            ("*:*:*:*", None),
            ("", None),
        ] {
            assert_eq!(text.lines().find_map(|line| matching(line, &LOGIN)).as_deref(), expected, "{text}");
        }
        let local = Login { host: "/var/run/postgresql", ..LOGIN };
        assert_eq!(matching("localhost:*:*:*:x", &local).as_deref(), Some("x"));
        assert_eq!(matching("/var/run/postgresql:*:*:*:x", &local).as_deref(), Some("x"));
        assert_eq!(matching("localhost:*:*:*:x", &Login { host: "/sockets", ..LOGIN }), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used_and_none_shows_its_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let allow = |mode| std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        std::fs::write(file.path(), "*:*:*:*:s3cret\n").unwrap();
        allow(0o600);
        assert_eq!(password(file.path(), &LOGIN).unwrap(), "s3cret");
        allow(0o640);
        let refusal = password(file.path(), &LOGIN).unwrap_err();
        assert!(refusal.contains("mode 0640") && refusal.contains("chmod 0600"), "{refusal}");
        allow(0o600);
        std::fs::write(file.path(), "h:*:*:*:s3cret\n").unwrap();
        let missing = password(file.path(), &LOGIN).unwrap_err();
        assert!(missing.contains("no line for db.example:5432:orders:me:too"), "{missing}");
        let directory = password(Path::new("/"), &LOGIN).unwrap_err();
        assert!(directory.contains("not a regular file"), "{directory}");
        assert!(!format!("{refusal}{missing}").contains("s3cret"));
    }
}
