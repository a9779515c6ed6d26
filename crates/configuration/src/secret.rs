//! Values that may come from a file: `X_file` beside `X`.

use super::reader::Section;
use std::path::PathBuf;

use ::secret::{Secret, SecretError, credential};

impl Section<'_> {
    /// Reads the secret `key`, or the file named by `<key>_file`. The file has to be readable now, and is read again
    /// for every use.
    pub fn rotating_secret(&mut self, key: &str) -> Option<Secret> {
        self.refuse_both(key, &format!("{key}_file"));
        let direct = self.filled_text(key).map(Secret::Text);
        let from_file = self.file_of(key);
        direct.or(from_file)
    }

    /// As [`Self::rotating_secret`], for a list with one entry a line.
    pub fn rotating_secrets(&mut self, key: &str) -> Option<Secret> {
        self.refuse_both(key, &format!("{key}_file"));
        let direct = self.texts(key).map(|entries| Secret::Text(entries.join("\n")));
        let from_file = self.file_of(key);
        direct.or(from_file)
    }

    /// Notes a problem if both of two exclusive keys come from the same origin. Otherwise the environment's takes
    /// precedence.
    pub fn refuse_both(&mut self, key: &str, other: &str) {
        if !self.has(key) || !self.has(other) {
            return;
        }
        match (self.is_overridden(key), self.is_overridden(other)) {
            (true, false) => self.ignore(other),
            (false, true) => self.ignore(key),
            _ => self.problem(other, format!("contradicts {key}"), "give one of the two"),
        }
    }

    /// Reads the path of a file: `credential:NAME` names a credential of a systemd unit.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.filled_text(key)?;
        credential::file(&text).map_err(|error| self.problem(key, error.to_string(), error.cure())).ok()
    }

    fn file_of(&mut self, key: &str) -> Option<Secret> {
        let key = format!("{key}_file");
        let file = self.path(&key)?;
        let cure = |error: &SecretError| match error {
            SecretError::Unreadable { .. } => "name a file that this program's user can read",
            SecretError::Empty(_) => "write the value into it",
        };
        Secret::of_file(&file)
            .map(|(secret, _)| secret)
            .map_err(|error| self.problem(&key, error.to_string(), cure(&error)))
            .ok()
    }
}
