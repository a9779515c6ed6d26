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
    /// A directory in which others may put another file, or directory, in the place of this one, and its mode.
    directory: Option<(PathBuf, u32)>,
}

const READ_BY_OTHERS: u32 = 0o004;
const WRITTEN_BY_OTHERS: u32 = 0o002;
const WRITTEN_BY_GROUP: u32 = 0o020;
const PASSED_BY_OTHERS: u32 = 0o001;
const PASSED_BY_GROUP: u32 = 0o010;
/// Only the owner of a file, or of the directory, may remove it or give it another name.
const STICKY: u32 = 0o1000;

impl Exposure {
    /// Looks at a file and at the directories that lead there: a file that everybody may read is nobody's in a directory that is
    /// closed, and one that nobody may write can be replaced in a directory that others may write. `None`: it is not open to
    /// others; or it is no plain file, or cannot be looked at, which reading it will say.
    ///
    /// Reading by the group is fine: that is how a service's user gets to a file of root.
    pub fn of(path: &Path) -> Option<Self> {
        Self::below(Path::new("/"), path)
    }

    /// As [`Exposure::of`], without a look at the directories above `root`.
    fn below(root: &Path, path: &Path) -> Option<Self> {
        let file = path.canonicalize().ok()?;
        let facts = file.metadata().ok()?;
        let mut way = Way::to(root, file.parent()?).ok()?;
        let mode = facts.permissions().mode() & 0o777;
        let readable = way.others() && mode & READ_BY_OTHERS != 0;
        let written =
            way.others() && mode & WRITTEN_BY_OTHERS != 0 || way.group() && mode & WRITTEN_BY_GROUP != 0;
        // A link can be replaced, too.
        if way.open.is_none() && path.is_symlink() {
            way = Way::to(root, &path.parent()?.canonicalize().ok()?).ok()?;
        }
        let directory = way.open.filter(|_| !readable && !written);
        (facts.is_file() && (readable || written || directory.is_some())).then(|| Self {
            path: path.to_owned(),
            mode,
            readable,
            directory,
        })
    }

    /// The next step.
    pub fn cure(&self) -> String {
        if let Some((directory, _)) = &self.directory {
            return format!("chmod g-w,o-w {}, or keep the file elsewhere", directory.display());
        }
        format!(
            "chmod 0640 {}, with a group that only outboxd's user is in, or chmod 0600; a Secret of Kubernetes: defaultMode: 0440, and \
             securityContext.fsGroup, without which only root may read it",
            self.path.display()
        )
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let may = if self.readable { "read" } else { "replace" };
        write!(f, "{} holds a secret, and other users of this machine may {may} it (", self.path.display())?;
        match &self.directory {
            Some((directory, mode)) => write!(f, "directory {}, mode {mode:04o})", directory.display()),
            None => write!(f, "mode {:04o})", self.mode),
        }
    }
}

/// The directories that lead somewhere.
struct Way {
    /// The permissions that all of them have in common.
    passed: u32,
    /// The uppermost in which others may replace what is there.
    open: Option<(PathBuf, u32)>,
}

impl Way {
    /// To `directory`, which is no link, and itself.
    fn to(root: &Path, directory: &Path) -> io::Result<Self> {
        let mut way = Self { passed: 0o777, open: None };
        let below: Vec<&Path> = directory.ancestors().take_while(|one| one.starts_with(root)).collect();
        for one in below.into_iter().rev() {
            let facts = one.metadata()?;
            let mode = facts.mode();
            way.passed &= mode;
            // Many systems give each user a group of the same number, which nobody else is in.
            let by_group = way.group() && mode & WRITTEN_BY_GROUP != 0 && facts.uid() != facts.gid();
            let by_others = way.others() && mode & WRITTEN_BY_OTHERS != 0;
            if way.open.is_none() && mode & STICKY == 0 && (by_group || by_others) {
                way.open = Some((one.to_owned(), mode & 0o7777));
            }
        }
        Ok(way)
    }

    fn others(&self) -> bool {
        self.passed & PASSED_BY_OTHERS != 0
    }

    fn group(&self) -> bool {
        self.passed & (PASSED_BY_GROUP | PASSED_BY_OTHERS) != 0
    }
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
        let root = directory.path().canonicalize().unwrap();
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
                let found = Exposure::below(&root, path).map(|exposure| exposure.to_string());
                let expected = word.map(|word| format!("may {word} it (mode {mode:04o})"));
                assert_eq!(found.is_some(), expected.is_some(), "{directory_mode:o} {mode:o} {found:?}");
                assert!(found.unwrap_or_default().ends_with(&expected.unwrap_or_default()), "{mode:o}");
            }
        }
        set_mode(directory.path(), 0o755);
        assert_eq!(Exposure::below(&root, directory.path()), None);
        assert_eq!(Exposure::of(Path::new("/dev/null")), None);
        assert_eq!(Exposure::of(Path::new("/no/such/file")), None);
    }

    #[test]
    fn a_file_in_a_directory_that_others_may_write_can_be_replaced() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (closed, open) = (root.join("closed"), root.join("open"));
        let inner = open.join("inner");
        for directory in [&closed, &open, &inner] {
            fs::create_dir(directory).unwrap();
            set_mode(directory, 0o755);
        }
        set_mode(&root, 0o755);
        let (file, safe, link) = (inner.join("password"), closed.join("password"), open.join("link"));
        for file in [&file, &safe] {
            fs::write(file, "hunter2").unwrap();
            set_mode(file, 0o600);
        }
        std::os::unix::fs::symlink(&safe, &link).unwrap();
        for (mode, replaced) in
            [(0o755, false), (0o777, true), (0o1777, false), (0o700, false), (0o702, false)]
        {
            set_mode(&open, mode);
            for path in [&file, &link] {
                let found = Exposure::below(&root, path);
                assert_eq!(found.is_some(), replaced, "{mode:o} {found:?}");
                let text = found.map(|found| (found.to_string(), found.cure())).unwrap_or_default();
                let expected = format!("may replace it (directory {}, mode {mode:04o})", open.display());
                assert!(
                    !replaced || text.0.ends_with(&expected) && text.1.starts_with("chmod g-w,o-w"),
                    "{text:?}"
                );
            }
            assert_eq!(Exposure::below(&root, &safe), None);
        }
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
