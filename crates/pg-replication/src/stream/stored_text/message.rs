//! Texts of a pgoutput message in the database's encoding, and their replacement.
//!
//! Total: finds the texts before the point at which a message breaks off; [`pgoutput`](crate::pgoutput) reports the
//! break. UPDATE, DELETE and TRUNCATE are not searched, so their text stays as it is.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

/// Delimiter of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A zero after the text.
    Name,
    /// A length of four bytes before the text.
    Value,
}

/// Texts of a message that are not ASCII.
#[derive(Debug, Default)]
pub(crate) struct Texts(Vec<(Range<usize>, Kind)>);

impl Texts {
    /// Finds the texts of a message.
    pub(crate) fn of(message: &[u8]) -> Self {
        let mut texts = Texts::default();
        if message.is_ascii() {
            return texts;
        }
        let mut reader = Reader { message, at: 1, texts: &mut texts };
        let _broken_off = match message.first() {
            Some(b'R') => reader.relation(),
            Some(b'Y') => reader.skip(4).and_then(|()| reader.name()).and_then(|()| reader.name()),
            Some(b'O') => reader.skip(8).and_then(|()| reader.name()),
            Some(b'I') => reader.skip(5).and_then(|()| reader.tuple()),
            _ => None,
        };
        texts
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the texts.
    pub(crate) fn iter<'a>(&'a self, message: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + Clone {
        self.0.iter().map(|(range, _)| &message[range.clone()])
    }

    /// Returns the message with every text translated.
    pub(crate) fn replaced(&self, message: &[u8], translate: impl Fn(&[u8]) -> Vec<u8>) -> Bytes {
        const LENGTH_BYTES: usize = 4;
        let mut replaced = BytesMut::with_capacity(message.len() * 2);
        let mut at = 0;
        for (range, kind) in &self.0 {
            let text = translate(&message[range.clone()]);
            match kind {
                Kind::Name => replaced.put_slice(&message[at..range.start]),
                Kind::Value => {
                    replaced.put_slice(&message[at..range.start - LENGTH_BYTES]);
                    replaced.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
                }
            }
            replaced.put_slice(&text);
            at = range.end;
        }
        replaced.put_slice(&message[at..]);
        replaced.freeze()
    }
}

/// Reader that stops where the message breaks off.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
    texts: &'a mut Texts,
}

impl Reader<'_> {
    fn relation(&mut self) -> Option<()> {
        self.skip(4)?;
        self.name()?;
        self.name()?;
        self.skip(1)?;
        for _ in 0..self.u16()? {
            self.skip(1)?;
            self.name()?;
            self.skip(8)?;
        }
        Some(())
    }

    fn tuple(&mut self) -> Option<()> {
        for _ in 0..self.u16()? {
            let kind = *self.message.get(self.at)?;
            self.skip(1)?;
            if matches!(kind, b't' | b'b') {
                let length = self.message.get(self.at..)?.first_chunk::<4>()?;
                let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
                self.skip(4)?;
                let range = self.at..self.at.checked_add(length)?;
                self.skip(length)?;
                if kind == b't' {
                    self.found(range, Kind::Value);
                }
            }
        }
        Some(())
    }

    fn name(&mut self) -> Option<()> {
        let length = self.message.get(self.at..)?.iter().position(|byte| *byte == 0)?;
        let range = self.at..self.at + length;
        self.skip(length + 1)?;
        self.found(range, Kind::Name);
        Some(())
    }

    fn found(&mut self, range: Range<usize>, kind: Kind) {
        if !self.message[range.clone()].is_ascii() {
            self.texts.0.push((range, kind));
        }
    }

    fn u16(&mut self) -> Option<u16> {
        let number =
            self.message.get(self.at..)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))?;
        self.skip(2)?;
        Some(number)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.at = self.at.checked_add(bytes).filter(|at| *at <= self.message.len())?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pgoutput::{self, PgOutput, Value};
    use proptest::prelude::*;

    fn doubled(text: &[u8]) -> Vec<u8> {
        text.iter().flat_map(|byte| char::from(*byte).to_string().into_bytes()).collect()
    }

    #[test]
    fn names_and_values_are_replaced_and_nothing_else_is() {
        let relation = b"R\0\0\xff\x01\xfc\0outb\xf6x\0d\0\x01\0spalt\xe9\0\0\0\0\x19\xff\xff\xff\xff";
        let texts = Texts::of(relation);
        assert_eq!(texts.iter(relation).count(), 3);
        let PgOutput::Relation(relation) = pgoutput::decode(texts.replaced(relation, doubled)).unwrap()
        else {
            panic!("no relation")
        };
        assert_eq!((relation.namespace.as_str(), relation.name.as_str()), ("ü", "outböx"));
        assert_eq!((relation.columns[0].name.as_str(), relation.columns[0].type_modifier), ("spalté", -1));

        let insert = b"I\0\0\xff\x01N\0\x04nt\0\0\0\x02a\xe9t\0\0\0\x01bb\0\0\0\x01\xff";
        let texts = Texts::of(insert);
        let PgOutput::Insert { new, .. } = pgoutput::decode(texts.replaced(insert, doubled)).unwrap() else {
            panic!("no insert")
        };
        let text = |text: &'static str| Value::Text(Bytes::from_static(text.as_bytes()));
        let binary = Value::Binary(Bytes::from_static(b"\xff"));
        assert_eq!(new.0, [Value::Null, text("aé"), text("b"), binary]);
    }

    proptest! {
        #[test]
        fn any_bytes_stay_as_they_are_when_every_text_does(
            kind in prop::sample::select(b"RYOIUDTBC".to_vec()),
            rest in prop::collection::vec(prop_oneof![Just(0), Just(1), Just(b't'), any::<u8>()], 0..60),
        ) {
            let message = [vec![kind], rest].concat();
            prop_assert_eq!(Texts::of(&message).replaced(&message, <[u8]>::to_vec), message);
        }
    }
}
