//! Conversion of text from a database whose encoding is not UTF8.
//!
//! The server could convert the text, but it ends the stream at the first character without an equivalent, again at
//! every attempt, and does not name the row. So text arrives as stored and is converted here, character by character.
//! The server is asked for each character's equivalent, because a table of this crate could differ from the server's.
//! A character without an equivalent stays as stored: the text is then not UTF-8, and only its row is invalid.
//!
//! Knows the length of a character in each server encoding (manual, "Character Set Support") and which parts of a
//! message are text (`message`). Does not know what a row means.

mod message;

use std::{collections::HashMap, fmt, time::Duration};

use futures_util::{FutureExt, future::BoxFuture, future::try_join_all};
use tokio_postgres::{Client, types::Type};

use crate::{
    connection::{endpoint::Endpoint, wire_error::WireError},
    sqlstate,
};

pub(crate) use message::Texts;

/// The client's encoding.
const UTF8: &str = "UTF8";

/// Encoding without a meaning of bytes above 127. As client encoding it turns conversion off.
pub(crate) const SQL_ASCII: &str = "SQL_ASCII";

/// Errors of a character without an equivalent.
const NO_EQUIVALENT: [&str; 2] = [sqlstate::UNTRANSLATABLE_CHARACTER, sqlstate::CHARACTER_NOT_IN_REPERTOIRE];

/// Most characters that are remembered. No encoding has as many, so only invalid bytes are forgotten.
const CHARACTERS_MAX: usize = 100_000;

/// A stored character, padded with zeros, which no text contains.
type Stored = [u8; 4];

/// A character in UTF-8; `None` if it has no equivalent.
type Utf8 = Option<Box<[u8]>>;

/// Length of a character by its first byte, which is not ASCII.
type Width = fn(u8) -> usize;

/// Encoding of a database's text.
pub enum Encoding {
    /// UTF-8, which needs no conversion.
    Utf8,
    /// Bytes of unknown meaning (SQL_ASCII). Valid UTF-8 among them is read as such.
    Unknown,
    /// Another encoding, and its translator.
    Other(Box<Translator>),
}

impl Encoding {
    /// Returns the encoding by its name in `server_encoding`. `endpoint` and `application_name` are for the
    /// connection that asks the server for characters.
    pub fn of(name: &str, endpoint: &Endpoint, application_name: &str) -> Self {
        match name {
            UTF8 => Encoding::Utf8,
            SQL_ASCII => Encoding::Unknown,
            name => {
                let (endpoint, application_name) = (endpoint.clone(), application_name.to_owned());
                Encoding::Other(Box::new(Translator::new(endpoint, application_name, width(name))))
            }
        }
    }
}

/// Returns the character width of an encoding. In some the lead bytes 0x8E and 0x8F announce more than two bytes
/// (`pg_wchar.h`: SS2, SS3).
fn width(encoding: &str) -> Width {
    match encoding {
        "EUC_JP" | "EUC_JIS_2004" | "EUC_KR" => |lead| if lead == 0x8F { 3 } else { 2 },
        "EUC_CN" => |_| 2,
        "EUC_TW" => |lead| match lead {
            0x8E => 4,
            0x8F => 3,
            _ => 2,
        },
        _ => |_| 1,
    }
}

/// Translator of text to UTF-8 by the server's answers.
pub struct Translator {
    endpoint: Endpoint,
    application_name: String,
    width: Width,
    known: HashMap<Stored, Utf8>,
    /// Connection for further questions.
    client: Option<Client>,
    asking: Option<BoxFuture<'static, Result<Answer, WireError>>>,
}

struct Answer {
    client: Client,
    characters: Vec<(Stored, Utf8)>,
}

impl fmt::Debug for Translator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Translator").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Translator {
    fn new(endpoint: Endpoint, application_name: String, width: Width) -> Self {
        Self { endpoint, application_name, width, known: HashMap::new(), client: None, asking: None }
    }

    /// Asks the server for the unknown characters of these texts. Cancel-safe: a question that was sent is not
    /// repeated.
    ///
    /// # Errors
    /// [`WireError`] when the server cannot be asked.
    pub async fn learn<'a>(
        &mut self,
        texts: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), WireError> {
        if self.known.len() > CHARACTERS_MAX {
            self.known.clear();
        }
        loop {
            if self.asking.is_none() {
                let unknown = self.unknown(texts.clone());
                if unknown.is_empty() {
                    return Ok(());
                }
                let client = self.client.take().filter(|client| !client.is_closed());
                self.asking =
                    Some(ask(self.endpoint.clone(), self.application_name.clone(), client, unknown).boxed());
            }
            let Some(asking) = &mut self.asking else { return Ok(()) };
            let answer = asking.await;
            self.asking = None;
            let Answer { client, characters } = answer?;
            self.known.extend(characters);
            // All characters of a single-byte encoding are known after one question.
            self.client = Some(client).filter(|_| !self.is_of_single_bytes());
        }
    }

    /// Tells whether all characters of these texts are known.
    pub fn knows<'a>(&self, mut texts: impl Iterator<Item = &'a [u8]>) -> bool {
        texts.all(|text| {
            let mut characters = characters(text, self.width).filter(|character| !character.is_ascii());
            characters.all(|character| self.known.contains_key(&stored(character)))
        })
    }

    fn is_of_single_bytes(&self) -> bool {
        (0x80..=0xFF).all(|lead| (self.width)(lead) == 1)
    }

    fn unknown<'a>(&self, texts: impl Iterator<Item = &'a [u8]>) -> Vec<Stored> {
        let mut unknown: Vec<Stored> = texts
            .flat_map(|text| characters(text, self.width))
            .filter(|character| !character.is_ascii())
            .map(stored)
            .filter(|character| !self.known.contains_key(character))
            .collect();
        if !unknown.is_empty() && self.is_of_single_bytes() {
            unknown = (0x80..=0xFF).map(|byte| stored(&[byte])).collect();
        }
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    /// Returns the text in UTF-8. A text with a character that is unknown or has no equivalent never becomes valid
    /// UTF-8.
    pub fn translate(&self, text: &[u8]) -> Vec<u8> {
        let mut translated = Vec::with_capacity(text.len() + text.len() / 2);
        let mut complete = true;
        for character in characters(text, self.width) {
            if character.is_ascii() {
                translated.extend_from_slice(character);
                continue;
            }
            match self.known.get(&stored(character)) {
                Some(Some(utf8)) => translated.extend_from_slice(utf8),
                _ => {
                    translated.extend_from_slice(character);
                    complete = false;
                }
            }
        }
        // Unconverted bytes may look like UTF-8 by chance. 0xFF occurs in no UTF-8.
        if !complete && str::from_utf8(&translated).is_ok() {
            translated.push(0xFF);
        }
        translated
    }
}

/// Returns the characters of a text. The last one may be cut short.
fn characters(text: &[u8], width: Width) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let lead = *rest.first()?;
        let length = if lead.is_ascii() { 1 } else { width(lead) };
        let (character, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        Some(character)
    })
}

fn stored(character: &[u8]) -> Stored {
    let mut stored = [0; 4];
    for (to, from) in stored.iter_mut().zip(character) {
        *to = *from;
    }
    stored
}

fn bytes(stored: &Stored) -> &[u8] {
    let length = stored.iter().position(|byte| *byte == 0).unwrap_or(stored.len());
    &stored[..length]
}

async fn ask(
    endpoint: Endpoint,
    application_name: String,
    client: Option<Client>,
    characters: Vec<Stored>,
) -> Result<Answer, WireError> {
    let limit: Duration = endpoint.connect_timeout();
    let asking = async {
        let client = match client {
            Some(client) => client,
            None => endpoint.connect_sql(&application_name).await.map_err(|error| error.cause)?,
        };
        let texts = match convert(&client, &characters).await? {
            Some(texts) => texts,
            // At least one character has no equivalent, so each is asked for by itself.
            None => {
                let each = characters.iter().map(async |character| {
                    let one = convert(&client, std::slice::from_ref(character)).await?;
                    Ok::<_, WireError>(one.and_then(|mut texts| texts.pop()).flatten())
                });
                try_join_all(each).await?
            }
        };
        let characters = characters.into_iter().zip(texts).collect();
        Ok(Answer { client, characters })
    };
    tokio::time::timeout(limit, asking).await.unwrap_or(Err(WireError::Timeout(limit)))
}

/// Converts characters of the database's encoding to UTF-8; `None` if one of them has no equivalent.
async fn convert(client: &Client, characters: &[Stored]) -> Result<Option<Vec<Utf8>>, WireError> {
    const CONVERT: &str = "SELECT convert(c, getdatabaseencoding(), 'UTF8') FROM unnest($1) WITH ORDINALITY AS u (c, n) ORDER BY n";
    let characters: Vec<&[u8]> = characters.iter().map(bytes).collect();
    match client.query_typed(CONVERT, &[(&characters, Type::BYTEA_ARRAY)]).await {
        Ok(rows) => {
            let text = |row: &tokio_postgres::Row| row.get::<_, Option<&[u8]>>(0).map(Box::from);
            Ok(Some(rows.iter().map(text).collect()))
        }
        Err(error) if error.code().is_some_and(|code| NO_EQUIVALENT.contains(&code.code())) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn translator(encoding: &str, known: &[(&[u8], Option<&str>)]) -> Box<Translator> {
        let endpoint = Endpoint::parse("postgresql://me@h/d").unwrap();
        let Encoding::Other(mut translator) = Encoding::of(encoding, &endpoint, "test") else {
            panic!("{encoding}")
        };
        let known = known.iter().map(|(from, to)| (stored(from), to.map(|to| to.as_bytes().into())));
        translator.known.extend(known);
        translator
    }

    #[test]
    fn what_has_no_equivalent_is_never_utf8() {
        let known: [(&[u8], _); 3] = [(b"\xfc", Some("ü")), (b"\x81", None), (b"\xc3", None)];
        let translator = translator("WIN1252", &known);
        for (text, expected) in [
            (&b"abc"[..], &b"abc"[..]),
            (b"\xfcber", "über".as_bytes()),
            (b"\xfc\x81", b"\xc3\xbc\x81"),
            (b"\xc3\x81", b"\xc3\x81\xff"),
            (b"\x90", b"\x90"),
        ] {
            assert_eq!(translator.translate(text), expected);
        }
    }

    #[test]
    fn a_character_is_as_long_as_its_encoding_says() {
        for (encoding, text, expected) in [
            ("WIN1252", &b"a\xfc\x81"[..], vec![1, 1, 1]),
            ("EUC_JP", b"a\xb0\xa1\x8e\xb1\x8f\xb0\xa1z", vec![1, 2, 2, 3, 1]),
            ("EUC_TW", b"\x8e\xa2\xa1\xa1\xc4\xe3z", vec![4, 2, 1]),
            ("EUC_CN", b"\xb0\xa1\x8f", vec![2, 1]),
        ] {
            let lengths: Vec<usize> = characters(text, width(encoding)).map(<[u8]>::len).collect();
            assert_eq!(lengths, expected, "{encoding}");
        }
        assert!(
            translator("WIN1252", &[]).is_of_single_bytes()
                && !translator("EUC_CN", &[]).is_of_single_bytes()
        );
        assert_eq!(translator("LATIN1", &[]).unknown([&b"\xfc"[..]].into_iter()).len(), 128);
        assert_eq!(translator("EUC_CN", &[]).unknown([&b"\xb0\xa1a\xb0\xa1"[..]].into_iter()).len(), 1);
    }
}
