//! Exposure of files: other users of this machine can read or replace their content.
//!
//! Knows modes, owners, directories and links. Does not know which files hold secrets.

use std::{
    ffi::OsString,
    fmt, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{self, Component, Path, PathBuf},
};

/// File that other users can read or replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    path: PathBuf,
    readable: bool,
    by: Opening,
}

/// Reason why others can reach a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Opening {
    /// The file's mode.
    Mode(u32),
    /// The file's owner.
    Owner(u32),
    /// Mode of a directory in which others may replace a file, directory or link on the path.
    Directory(PathBuf, u32),
    /// Owner of such a directory, or of a link on the path.
    OwnerOf(PathBuf, u32),
}

const READ_BY_OTHERS: u32 = 0o004;
const WRITTEN_BY_OTHERS: u32 = 0o002;
const WRITTEN_BY_GROUP: u32 = 0o020;
const PASSED_BY_OTHERS: u32 = 0o001;
const PASSED_BY_GROUP: u32 = 0o010;
/// Sticky bit: only the owner of a file or of its directory may remove or rename it.
const STICKY: u32 = 0o1000;
/// First user id of a person's account; services have lower ones (`login.defs`, `UID_MIN`).
const FIRST_PERSON: u32 = 1000;
/// Most links on a path, as on Linux (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// User that runs outboxd.
#[derive(Clone, Copy)]
struct User(u32);

impl User {
    /// Tells whether a file's owner is a risk. Root never is, because it may read everything. For root, which checks
    /// for a service that runs as another user, accounts of services are none either.
    fn fears(self, owner: u32) -> bool {
        let is_service = self.0 == 0 && owner < FIRST_PERSON;
        owner != 0 && owner != self.0 && !is_service
    }
}

impl Exposure {
    /// Checks a file and the directories and links on its path. A closed directory protects a readable file, and an
    /// open directory exposes a protected one. The owner of a file or directory can read and replace. `None`: others
    /// have no access, or the file is not a regular one or cannot be checked, which reading it reports.
    ///
    /// Access by the group is allowed: so a service's user reads a file of root.
    pub fn of(path: &Path) -> Option<Self> {
        Self::below(Path::new("/"), path, User(rustix::process::geteuid().as_raw()))
    }

    /// As [`Exposure::of`], without checking directories above `root`.
    fn below(root: &Path, path: &Path, user: User) -> Option<Self> {
        let file = path.canonicalize().ok()?;
        let facts = file.metadata().ok()?;
        let way = Way::to(root, file.parent()?, user).ok()?;
        let mode = facts.permissions().mode() & 0o777;
        let is_read = way.others() && mode & READ_BY_OTHERS != 0;
        let is_owned = way.group() && user.fears(facts.uid());
        let is_written =
            way.others() && mode & WRITTEN_BY_OTHERS != 0 || way.group() && mode & WRITTEN_BY_GROUP != 0;
        let by = match () {
            () if is_owned && !is_read => Opening::Owner(facts.uid()),
            () if is_read || is_written => Opening::Mode(mode),
            () => way.open.or_else(|| replaceable_link(root, path, user).ok().flatten())?,
        };
        facts.is_file().then(|| Self { path: path.to_owned(), readable: is_read || is_owned, by })
    }

    /// Returns the next step.
    pub fn cure(&self) -> String {
        let path = self.path.display();
        match &self.by {
            Opening::Directory(directory, _) => {
                format!("chmod g-w,o-w {}, or keep the file elsewhere", directory.display())
            }
            Opening::Owner(_) => format!("chown root {path}, or outboxd's own user in the place of root"),
            Opening::OwnerOf(directory, _) => {
                format!("chown -h root {}, or keep the file elsewhere", directory.display())
            }
            Opening::Mode(_) => format!(
                "chmod 0640 {path}, with a group that only outboxd's user is in, or chmod 0600; a Secret of Kubernetes: defaultMode: 0440, \
                 and securityContext.fsGroup, without which only root may read it"
            ),
        }
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let may = if self.readable { "read" } else { "replace" };
        write!(f, "{} holds a secret, and other users of this machine may {may} it (", self.path.display())?;
        match &self.by {
            Opening::Mode(mode) => write!(f, "mode {mode:04o})"),
            Opening::Owner(user) => write!(f, "it belongs to user {user})"),
            Opening::Directory(directory, mode) => {
                write!(f, "directory {}, mode {mode:04o})", directory.display())
            }
            Opening::OwnerOf(directory, user) => {
                write!(f, "{} belongs to user {user})", directory.display())
            }
        }
    }
}

/// Directories of a path.
struct Way {
    /// Permissions that all directories have in common.
    passed: u32,
    /// The topmost directory in which others may replace entries.
    open: Option<Opening>,
}

impl Way {
    /// Returns the path to `directory`, which contains no link, including itself.
    fn to(root: &Path, directory: &Path, user: User) -> io::Result<Self> {
        let mut way = Self { passed: 0o777, open: None };
        let below: Vec<&Path> = directory.ancestors().take_while(|one| one.starts_with(root)).collect();
        for one in below.into_iter().rev() {
            let facts = one.metadata()?;
            let mode = facts.mode();
            // The owner of a directory has access whatever its mode.
            let is_owned = way.group() && user.fears(facts.uid());
            way.passed &= mode;
            // Many systems give each user a private group with the user's number.
            let by_group = way.group() && mode & WRITTEN_BY_GROUP != 0 && facts.uid() != facts.gid();
            let by_others = way.others() && mode & WRITTEN_BY_OTHERS != 0;
            let opening = match () {
                () if is_owned => Some(Opening::OwnerOf(one.to_owned(), facts.uid())),
                () if mode & STICKY == 0 && (by_group || by_others) => {
                    Some(Opening::Directory(one.to_owned(), mode & 0o7777))
                }
                () => None,
            };
            way.open = way.open.or(opening);
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

/// Returns the first way to replace a link on the path to the file.
fn replaceable_link(root: &Path, path: &Path, user: User) -> io::Result<Option<Opening>> {
    let (mut at, mut links) = (PathBuf::new(), 0);
    let mut left = parts(&path::absolute(path)?);
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let facts = next.symlink_metadata()?;
        if !facts.is_symlink() {
            at = next;
            continue;
        }
        let way = Way::to(root, &at, user)?;
        if way.open.is_some() {
            return Ok(way.open);
        }
        // In a sticky directory the link's owner may replace it.
        if next.starts_with(root) && at.metadata()?.mode() & STICKY != 0 && user.fears(facts.uid()) {
            return Ok(Some(Opening::OwnerOf(next, facts.uid())));
        }
        links += 1;
        if links > LINKS_MAX {
            return Ok(None);
        }
        left.extend(parts(&next.read_link()?));
    }
    Ok(None)
}

/// Returns the parts of a path, the last one first. Joining the root replaces everything before it.
fn parts(path: &Path) -> Vec<OsString> {
    let is_part = |part: &Component<'_>| *part != Component::CurDir;
    path.components().rev().filter(is_part).map(|part| part.as_os_str().to_owned()).collect()
}

/// Tells whether a configuration holds a password: in a URL, or as the value of a key with such an ending.
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

    /// A user other than root.
    const SERVICE: User = User(4711);

    /// Owner of the tests' files.
    fn me() -> User {
        User(rustix::process::geteuid().as_raw())
    }

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
                let found = Exposure::below(&root, path, me()).map(|exposure| exposure.to_string());
                let expected = word.map(|word| format!("may {word} it (mode {mode:04o})"));
                assert_eq!(found.is_some(), expected.is_some(), "{directory_mode:o} {mode:o} {found:?}");
                assert!(found.unwrap_or_default().ends_with(&expected.unwrap_or_default()), "{mode:o}");
            }
        }
        set_mode(directory.path(), 0o755);
        assert_eq!(Exposure::below(&root, directory.path(), me()), None);
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
                let found = Exposure::below(&root, path, me());
                assert_eq!(found.is_some(), replaced, "{mode:o} {found:?}");
                let text = found.map(|found| (found.to_string(), found.cure())).unwrap_or_default();
                let expected = format!("may replace it (directory {}, mode {mode:04o})", open.display());
                assert!(
                    !replaced || text.0.ends_with(&expected) && text.1.starts_with("chmod g-w,o-w"),
                    "{text:?}"
                );
            }
            assert_eq!(Exposure::below(&root, &safe, me()), None);
        }
    }

    #[test]
    fn an_owner_who_is_neither_root_nor_outboxds_user_may_read_and_replace() {
        for (me, owner, feared) in [
            (0, 0, false),
            (0, 999, false),
            (0, 1000, true),
            (4711, 0, false),
            (4711, 4711, false),
            (4711, 999, true),
        ] {
            assert_eq!(User(me).fears(owner), feared, "{me} {owner}");
        }
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (inner, closed) = (root.join("inner"), root.join("closed"));
        for directory in [&inner, &closed] {
            fs::create_dir(directory).unwrap();
            set_mode(directory, 0o755);
        }
        set_mode(&root, 0o755);
        let file = inner.join("password");
        fs::write(&file, "hunter2").unwrap();
        set_mode(&file, 0o600);
        // Only root may change a file's owner. For other users the service is made another user.
        let is_root = me().0 == 0;
        let other = if is_root { 4242 } else { me().0 };
        let own = |path: &Path, uid: u32| {
            if is_root {
                std::os::unix::fs::lchown(path, Some(uid), None).unwrap();
            }
        };
        let said = |path: &Path| {
            Exposure::below(&root, path, SERVICE).map(|found| (found.to_string(), found.cure()))
        };
        own(&file, other);
        let (text, cure) = said(&file).unwrap();
        assert!(text.ends_with(&format!("may read it (it belongs to user {other})")), "{text}");
        assert!(cure.starts_with("chown root"), "{cure}");
        // A closed directory protects it.
        set_mode(&inner, 0o700);
        assert_eq!(said(&file).is_some(), !is_root, "{:?}", said(&file));
        set_mode(&inner, 0o755);
        if !is_root {
            return;
        }
        own(&file, 0);
        assert_eq!(said(&file), None);
        own(&inner, other);
        let (text, _) = said(&file).unwrap();
        assert!(
            text.ends_with(&format!("may replace it ({} belongs to user {other})", inner.display())),
            "{text}"
        );
        own(&inner, 0);
        // A link on the path, and another user's directory on the link's path.
        let (link, second) = (closed.join("link"), root.join("second"));
        std::os::unix::fs::symlink(&inner, &link).unwrap();
        std::os::unix::fs::symlink("closed/./link", &second).unwrap();
        let by_links = second.join("password");
        assert_eq!(said(&by_links), None);
        own(&closed, other);
        let (text, _) = said(&by_links).unwrap();
        assert!(text.ends_with(&format!("({} belongs to user {other})", closed.display())), "{text}");
        assert_eq!(said(&file), None);
        own(&closed, 0);
        set_mode(&closed, 0o1777);
        assert_eq!(said(&by_links), None);
        own(&link, other);
        let (text, _) = said(&by_links).unwrap();
        assert!(text.ends_with(&format!("({} belongs to user {other})", link.display())), "{text}");
        set_mode(&closed, 0o777);
        let (text, _) = said(&by_links).unwrap();
        assert!(text.ends_with(&format!("(directory {}, mode 0777)", closed.display())), "{text}");
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
