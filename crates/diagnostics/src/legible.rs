//! Display of text from rows and peers: no character controls a terminal, begins a line, or is invisible.
//!
//! Applied where text leaves the process: by logs, by the output of commands, and by HTTP answers for people. So the
//! code that composes a text need not escape it. Data for programs, such as messages and table columns, stays as it
//! is. Pure.

use std::{
    borrow::Cow,
    fmt::{self, Display, Write},
};

use serde::Serialize;

/// Tells whether a character is escaped: control characters, line separators, characters that change the direction of
/// text, and invisible ones (Unicode's `Default_Ignorable_Code_Point`, and interlinear annotations).
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}'
            | '\u{E0000}'..='\u{E0FFF}')
}

/// Text on one line, with `\n`, `\t` and `\u{1b}` in place of hidden characters.
#[derive(Clone, Copy, Debug)]
pub struct Legible<T>(pub T);

impl<T: Display> Display for Legible<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Writer that escapes hidden characters.
#[derive(Debug)]
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut shown = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| is_hidden(*c)) {
            self.0.write_str(&text[shown..at])?;
            shown = at + c.len_utf8();
            match c {
                '\n' | '\r' | '\t' => write!(self.0, "{}", c.escape_default())?,
                _ => write!(self.0, "{}", c.escape_unicode())?,
            }
        }
        self.0.write_str(&text[shown..])
    }
}

/// Escapes hidden characters except line feeds, for text of several lines such as a table.
pub fn lines(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| is_hidden(c) && c != '\n') {
        return text.into();
    }
    text.split('\n').map(|line| Legible(line).to_string()).collect::<Vec<_>>().join("\n").into()
}

/// Returns a value as a JSON document for people, without hidden characters and with a final line feed.
///
/// # Errors
///
/// [`serde_json::Error`] when the value cannot be written as JSON.
pub fn document(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(|document| json(&document).into_owned() + "\n")
}

/// Escapes the hidden characters of a JSON document, which keeps its meaning. JSON itself escapes only ASCII's
/// control characters, so those that remain are blanks between tokens.
pub fn json(document: &str) -> Cow<'_, str> {
    if !document.contains(|c| is_hidden(c) && c != '\n') {
        return document.into();
    }
    let mut shown = String::with_capacity(document.len() + 16);
    for c in document.chars() {
        match c {
            '\r' | '\t' => shown.push(' '),
            c if c != '\n' && is_hidden(c) => {
                let units = c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .map(|unit| format!("\\u{unit:04x}"))
                    .collect::<String>();
                shown.push_str(&units);
            }
            c => shown.push(c),
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_or_hides_is_escaped_and_all_else_stays() {
        for (text, shown) in [
            ("order.created", "order.created"),
            ("\u{1b}[2J\u{7}\0\u{7f}", r"\u{1b}[2J\u{7}\u{0}\u{7f}"),
            ("a\r\n2026-01-01 ERROR\tforged", r"a\r\n2026-01-01 ERROR\tforged"),
            ("\u{9b}31m\u{85}", r"\u{9b}31m\u{85}"),
            ("\u{202e}gpj.exe\u{2066}\u{200f}", r"\u{202e}gpj.exe\u{2066}\u{200f}"),
            ("\u{2028}\u{2029}\u{200b}\u{feff}\u{ad}", r"\u{2028}\u{2029}\u{200b}\u{feff}\u{ad}"),
            ("\u{e0041}\u{fe0f}\u{e0100}", r"\u{e0041}\u{fe0f}\u{e0100}"),
            // Letters of every script with their marks, and text with a backslash.
            (
                "größe e\u{301} Ελλάδα עברית العربية हिन्दी 日本語 💩",
                "größe e\u{301} Ελλάδα עברית العربية हिन्दी 日本語 💩",
            ),
            (r"^outboxd\.publisher\. \u{1b}", r"^outboxd\.publisher\. \u{1b}"),
        ] {
            assert_eq!(Legible(text).to_string(), shown);
            assert!(!shown.contains(is_hidden));
        }
        assert_eq!(lines("one\ntwo\r\u{1b}\n"), "one\ntwo\\r\\u{1b}\n");
    }

    #[test]
    fn a_json_document_means_the_same_and_hides_nothing() {
        let value = serde_json::json!({ "a\u{202e}": "\u{1b}[2J\u{9b}\u{7f}\n\u{e0041} plain \\u{202e}" });
        let document = serde_json::to_string_pretty(&value).unwrap();
        let shown = json(&document);
        assert!(!shown.replace('\n', "").contains(is_hidden), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        assert_eq!(json("{\r\t}"), "{  }");
    }
}
