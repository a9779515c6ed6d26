//! Values that may come from a file of their own: `X_file` beside `X`.

use super::reader::Section;

impl Section<'_> {
    /// The secret `key`, or the content of the file that `<key>_file` names, without the newline at its end.
    pub(crate) fn secret(&mut self, key: &str) -> Option<String> {
        self.refuse_both(key, &format!("{key}_file"));
        let direct = self.filled_text(key);
        let from_file = self.content_of(key);
        direct.or(from_file)
    }

    /// As `secret`, for a list: the file holds one entry on a line.
    pub(crate) fn secrets(&mut self, key: &str) -> Option<Vec<String>> {
        self.refuse_both(key, &format!("{key}_file"));
        let direct = self.texts(key);
        let lines =
            |text: String| text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
        let from_file = self.content_of(key).map(lines);
        direct.or(from_file)
    }

    /// Two keys that say the same thing: the environment's goes before the file's, and of one origin there may be only one.
    pub(crate) fn refuse_both(&mut self, key: &str, other: &str) {
        if !self.has(key) || !self.has(other) {
            return;
        }
        match (self.is_overridden(key), self.is_overridden(other)) {
            (true, false) => self.ignore(other),
            (false, true) => self.ignore(key),
            _ => self.problem(other, format!("contradicts {key}"), "give one of the two"),
        }
    }

    fn content_of(&mut self, key: &str) -> Option<String> {
        let key = format!("{key}_file");
        let file = self.filled_text(&key)?;
        let content = match super::text_of(file.as_ref()) {
            Ok(content) => content,
            Err(error) => {
                let cure = "name a file that this program's user can read";
                self.problem(&key, format!("{file} cannot be read: {error}"), cure);
                return None;
            }
        };
        let content = content.trim_end_matches(['\n', '\r']);
        if content.is_empty() {
            self.problem(&key, format!("{file} is empty"), "write the value into it");
            return None;
        }
        Some(content.to_owned())
    }
}
