//! Values that may come from a file of their own: `X_file` beside `X`.

use super::reader::Section;
use ::secret::{Secret, SecretError};

impl Section<'_> {
    /// The secret `key`, or the file that `<key>_file` names, whose content can be read now and is read again for every use.
    pub fn rotating_secret(&mut self, key: &str) -> Option<Secret> {
        self.refuse_both(key, &format!("{key}_file"));
        let direct = self.filled_text(key).map(Secret::Text);
        let from_file = self.file_of(key);
        direct.or(from_file)
    }

    /// As `rotating_secret`, for a list: one entry a line.
    pub fn rotating_secrets(&mut self, key: &str) -> Option<Secret> {
        self.refuse_both(key, &format!("{key}_file"));
        let direct = self.texts(key).map(|entries| Secret::Text(entries.join("\n")));
        let from_file = self.file_of(key);
        direct.or(from_file)
    }

    /// Two keys that say the same thing: the environment's goes before the file's, and of one origin there may be only one.
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

    fn file_of(&mut self, key: &str) -> Option<Secret> {
        let key = format!("{key}_file");
        let file = self.filled_text(&key)?;
        let cure = |error: &SecretError| match error {
            SecretError::Unreadable { .. } => "name a file that this program's user can read",
            SecretError::Empty(_) => "write the value into it",
        };
        Secret::of_file(file.as_ref())
            .map(|(secret, _)| secret)
            .map_err(|error| self.problem(&key, error.to_string(), cure(&error)))
            .ok()
    }
}
