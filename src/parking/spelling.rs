//! The spelling in the table of parked rows of texts that a person could not see, or its database cannot hold.
//!
//! No text of PostgreSQL has a zero character, and a database whose encoding is not UTF8 lacks most others; but a routing key
//! that a template or a JSON escape made may have any. Such a character is written as it is shown everywhere else, `\u{0}` or
//! `\u{20ac}`, so whoever reads the table by SQL sees which one it is. Nothing reads these texts back: a requeued row is made into a
//! message again from its own columns.

use crate::postgres::{sqlstate, statement::CatalogError};
use diagnostics::legible::Legible;

/// The characters that a database is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// All that can be seen.
    Plain,
    /// Those of ASCII: every encoding that a server may have contains them (manual, "Character Set Support").
    Ascii,
}

impl Spelling {
    /// The text as it is written into the table.
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

/// Tells whether the database has no place for a character.
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
