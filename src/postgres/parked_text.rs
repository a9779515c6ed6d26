//! How the table of parked rows spells texts that its database cannot hold.
//!
//! No text of PostgreSQL has a zero character, and a database whose encoding is not UTF8 lacks most others; but a routing key
//! that a template or a JSON escape made may have any. Such a character is written as Rust and Unicode write it, `\u{0}` or
//! `\u{20ac}`, and so is a backslash in front of `u{`; every other text stands there as it is. So the spelling can be undone
//! whatever the text was, and whoever reads the table by SQL sees which character it is.

use std::borrow::Cow;

use super::{sqlstate, statement::CatalogError};
use crate::legible::is_hidden;

/// What an escape begins with.
const ESCAPE: &str = "\\u{";

/// Which characters a database is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// All but zero.
    Plain,
    /// Those of ASCII but zero: every encoding that a server may have contains them (manual, "Character Set Support").
    Ascii,
}

impl Spelling {
    /// The text as it is written into the table.
    pub(super) fn write(self, text: &str) -> Cow<'_, str> {
        self.write_but(text, |_| false)
    }

    /// The same for a sentence, which people read by SQL: also what they would not see is spelled.
    pub(super) fn write_sentence(self, text: &str) -> Cow<'_, str> {
        self.write_but(text, is_hidden)
    }

    fn write_but(self, text: &str, also: impl Fn(char) -> bool) -> Cow<'_, str> {
        let is_spelled = |c: char| c == '\0' || self == Spelling::Ascii && !c.is_ascii() || also(c);
        if !text.contains(is_spelled) && !text.contains(ESCAPE) {
            return text.into();
        }
        let mut written = String::with_capacity(text.len() + 16);
        for (at, c) in text.char_indices() {
            if is_spelled(c) || text[at..].starts_with(ESCAPE) {
                written.extend(c.escape_unicode());
            } else {
                written.push(c);
            }
        }
        written.into()
    }
}

/// The text that was written. What somebody else has written into the table, and is no escape, stays as it is.
pub(super) fn read(written: &str) -> String {
    let mut text = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(at) = rest.find(ESCAPE) {
        let (before, escape) = rest.split_at(at);
        text.push_str(before);
        let (c, length) = escaped(escape).unwrap_or(('\\', 1));
        text.push(c);
        rest = &escape[length..];
    }
    text + rest
}

/// The character at the beginning, and how many bytes its escape takes.
fn escaped(escape: &str) -> Option<(char, usize)> {
    let (digits, _) = escape[ESCAPE.len()..].split_once('}')?;
    let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
    Some((c, ESCAPE.len() + digits.len() + 1))
}

/// The database has no place for a character.
pub(super) fn cannot_be_held(error: &CatalogError) -> bool {
    matches!(
        error.sqlstate(),
        Some(sqlstate::UNTRANSLATABLE_CHARACTER | sqlstate::CHARACTER_NOT_IN_REPERTOIRE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_again_whatever_it_is() {
        const ALPHABET: [char; 8] = ['\\', 'u', '{', '}', '0', '\0', 'é', '\u{1F4A9}'];
        let mut texts = vec![String::new()];
        for length in 0..6 {
            let longest: Vec<String> =
                texts.iter().filter(|t| t.chars().count() == length).cloned().collect();
            texts.extend(longest.iter().flat_map(|text| ALPHABET.map(|c| format!("{text}{c}"))));
        }
        assert!(texts.len() > 200_000);
        for text in &texts {
            for spelling in [Spelling::Plain, Spelling::Ascii] {
                let written = spelling.write(text);
                assert_eq!(read(&written), *text, "{spelling:?} wrote {written:?}");
                assert!(!written.contains('\0') && (spelling == Spelling::Plain || written.is_ascii()));
            }
        }
    }

    #[test]
    fn ordinary_texts_stay_as_they_are_and_others_say_which_character_it_is() {
        for text in ["", "order.created", r"C:\users\{x}", "Ünï\t\n"] {
            assert_eq!(Spelling::Plain.write(text), text);
            assert_eq!(read(text), text);
        }
        assert_eq!(Spelling::Plain.write("\0k"), r"\u{0}k");
        assert_eq!(Spelling::Ascii.write("5 €"), r"5 \u{20ac}");
        assert_eq!(Spelling::Plain.write(r"\u{0}"), r"\u{5c}u{0}");
        let sentence = "exchange '\u{1b}[2J\n\u{202e}' is missing";
        let written = Spelling::Plain.write_sentence(sentence);
        assert_eq!(written, r"exchange '\u{1b}[2J\u{a}\u{202e}' is missing");
        assert_eq!(read(&written), sentence);
        for foreign in [r"\u{}", r"\u{zz}", r"\u{d800}", r"\u{12", r"\u{é}"] {
            assert_eq!(read(foreign), foreign, "no escape of ours");
        }
    }
}
