//! Files whose content other users of this machine can read or replace.
//!
//! Knows modes and directories. Does not know which files hold secrets.

use std::{
    fmt, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A file that is open to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    path: PathBuf,
    mode: u32,
    readable: bool,
}

impl Exposure {
    /// Looks at a file and at the directories that lead there: a file that everybody may read is nobody's in a directory that is
    /// closed. `None`: it is not open to others; or it is no plain file, or cannot be looked at, which reading it will say.
    ///
    /// Reading by the group is fine: that is how a service's user gets to a file of root.
    pub fn of(path: &Path) -> Option<Self> {
        const READ_BY_OTHERS: u32 = 0o004;
        const WRITTEN_BY_OTHERS: u32 = 0o002;
        const WRITTEN_BY_GROUP: u32 = 0o020;
        const PASSED_BY_OTHERS: u32 = 0o001;
        const PASSED_BY_GROUP: u32 = 0o010;
        let (facts, passed) = facts(path).ok()?;
        let mode = facts.permissions().mode() & 0o777;
        let others = passed & PASSED_BY_OTHERS != 0;
        let group = passed & (PASSED_BY_GROUP | PASSED_BY_OTHERS) != 0;
        let readable = others && mode & READ_BY_OTHERS != 0;
        let written = others && mode & WRITTEN_BY_OTHERS != 0 || group && mode & WRITTEN_BY_GROUP != 0;
        (facts.is_file() && (readable || written)).then(|| Self { path: path.to_owned(), mode, readable })
    }

    /// The next step.
    pub fn cure(&self) -> String {
        format!(
            "chmod 0640 {}, with a group that only outboxd's user is in, or chmod 0600; a Secret of Kubernetes: defaultMode: 0440",
            self.path.display()
        )
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let may = if self.readable { "read" } else { "replace" };
        write!(
            f,
            "{} holds a secret, and other users of this machine may {may} it (mode {:04o})",
            self.path.display(),
            self.mode
        )
    }
}

/// The file, and the permissions that all directories above it have in common. A link counts as what it leads to.
fn facts(path: &Path) -> io::Result<(std::fs::Metadata, u32)> {
    let path = path.canonicalize()?;
    let mut passed = 0o777;
    for directory in path.ancestors().skip(1) {
        passed &= directory.metadata()?.mode();
    }
    Ok((path.metadata()?, passed))
}

/// Tells whether a configuration holds a password itself: in a URL, or as the value of a key that ends so.
pub fn holds_password(configuration: &str) -> bool {
    configuration.lines().map(str::trim_start).filter(|line| !line.starts_with('#')).any(|line| {
        let key = line.split_once('=').map(|(key, _)| key.trim_end().trim_end_matches(['"', '\'']));
        let in_url = line.split("://").skip(1).any(|rest| {
            let authority = rest.split(['/', '?', '"', '\'', ' ']).next().unwrap_or_default();
            authority.rsplit_once('@').is_some_and(|(login, _)| login.contains(':'))
        });
        in_url || key.is_some_and(|key| key.ends_with("password"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_is_exposed_by_its_mode_and_by_the_directories_that_lead_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        fs::write(&file, "hunter2").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for (directory_mode, mode, word) in [
            (0o755, 0o600, None),
            (0o755, 0o440, None),
            (0o755, 0o644, Some("read")),
            (0o755, 0o604, Some("read")),
            (0o755, 0o620, Some("replace")),
            (0o755, 0o602, Some("replace")),
            (0o700, 0o666, None),
            (0o750, 0o644, None),
            (0o750, 0o660, Some("replace")),
        ] {
            set_mode(directory.path(), directory_mode);
            set_mode(&file, mode);
            for path in [&file, &link] {
                let found = Exposure::of(path).map(|exposure| exposure.to_string());
                let expected = word.map(|word| format!("may {word} it (mode {mode:04o})"));
                assert_eq!(found.is_some(), expected.is_some(), "{directory_mode:o} {mode:o} {found:?}");
                assert!(found.unwrap_or_default().ends_with(&expected.unwrap_or_default()), "{mode:o}");
            }
        }
        set_mode(directory.path(), 0o755);
        assert_eq!(Exposure::of(directory.path()), None);
        assert_eq!(Exposure::of(Path::new("/dev/null")), None);
        assert_eq!(Exposure::of(Path::new("/no/such/file")), None);
    }

    #[test]
    fn a_password_in_a_configuration_is_seen_and_one_in_a_file_of_its_own_is_not_there() {
        for text in [
            "url = \"amqp://guest:guest@h:5672/%2f\"",
            "  postgres.url = 'postgresql://u:p@h/db'",
            "postgres.password = \"x\"",
            "\"password\" = 'x'",
            "urls = [\"amqps://h\", \"amqps://u:p@h\"]",
        ] {
            assert!(holds_password(text), "{text}");
        }
        for text in [
            "# url = \"amqp://guest:guest@h:5672/%2f\"",
            "url = \"postgresql://u@h:5432/db\"",
            "password_file = \"/run/secrets/p\"",
            "url_file = \"/run/secrets/u\"",
            "see = \"http://h:80/a@b\"",
        ] {
            assert!(!holds_password(text), "{text}");
        }
    }
}
