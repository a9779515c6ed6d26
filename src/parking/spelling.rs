//! The spelling of characters in the table of parked rows that are invisible, or that the database cannot store.
//!
//! PostgreSQL stores no zero character, and a database whose encoding is not UTF8 lacks most other characters. A routing key from a
//! template or a JSON escape may have any. Such a character is written as everywhere else, `\u{0}` or `\u{20ac}`. Nothing reads
//! these texts back: the message of a requeued row is made from its columns.

use crate::postgres::{sqlstate, statement::CatalogError};
use diagnostics::legible::Legible;

/// The characters that are written as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// All visible characters.
    Plain,
    /// ASCII, which every server encoding contains (manual, "Character Set Support").
    Ascii,
}

impl Spelling {
    /// Returns the text as written into the table.
    pub(super) fn write(self, text: &str) -> String {
        let text = Legible(text).to_string();
        match self {
            Spelling::Plain => text,
            Spelling::Ascii => text.chars().fold(String::with_capacity(text.len()), |mut written, c| {
                match c.is_ascii() {
                    true => written.push(c),
                    false => written.extend(c.escape_unicode()),
                }
                written
            }),
        }
    }
}

/// Tells whether the error is about a character that the database cannot store.
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
    fn ordinary_texts_stay_as_they_are_and_others_say_which_character_it_is() {
        for text in ["", "order.created", r"C:\users\{x}", "Ünï", "5 €"] {
            assert_eq!(Spelling::Plain.write(text), text);
        }
        assert_eq!(Spelling::Plain.write("\0k"), r"\u{0}k");
        assert_eq!(Spelling::Ascii.write("5 €\0"), r"5 \u{20ac}\u{0}");
        let sentence = "exchange '\u{1b}[2J\n\u{202e}' is missing";
        assert_eq!(Spelling::Plain.write(sentence), r"exchange '\u{1b}[2J\n\u{202e}' is missing");
    }
}
