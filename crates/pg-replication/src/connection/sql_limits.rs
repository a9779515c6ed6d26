//! Limits of what a server may say to tokio-postgres, which keeps whatever comes: every parameter, every notice of a login, every
//! row of an answer. And it reads an answer to its end when nobody wants it any more, so an answer without end would hold its
//! connection for ever.
//!
//! Knows where a message begins and which of them are kept. Does not know what they mean.

use std::{
    collections::HashSet,
    hash::{BuildHasher, DefaultHasher, Hasher, RandomState},
};

use postgres_protocol::message::backend::{
    BIND_COMPLETE_TAG, DATA_ROW_TAG, PARAMETER_STATUS_TAG, READY_FOR_QUERY_TAG,
};

use super::{
    wire::{self, TAG_AND_LENGTH},
    wire_error::WireError,
};

/// Bytes before a login is complete. PostgreSQL sends two thousand, and the notices of a login trigger.
pub(crate) const LOGIN_BYTES_MAX: usize = 1 << 20;
/// Names of parameters that a server may report. PostgreSQL reports fewer than twenty.
pub(crate) const PARAMETERS_MAX: usize = 256;
/// Bytes of one answer, or between two, beside its longest message: a single row may be as long as any. Rows of a table are read in
/// portions, by the simple protocol, and are not kept: of these only the number counts.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Bytes that a row takes in memory beside those on the wire, at least.
pub(crate) const ROW_BYTES: usize = 128;

/// Refuses an answer of more than `max` bytes.
pub(crate) fn check_answer(bytes: usize, max: usize) -> Result<(), WireError> {
    if bytes > max {
        let mib = max >> 20;
        return Err(WireError::protocol(format!("an answer that takes more than {mib} MiB")));
    }
    Ok(())
}

/// Follows the server's messages from one to the next.
#[derive(Default)]
pub(crate) struct Limits {
    /// Tag and length of the message that begins, as far as they have come.
    header: [u8; TAG_AND_LENGTH],
    filled: usize,
    /// Tag of the message that has begun last.
    tag: u8,
    /// Bytes that are still to come of it.
    rest: usize,
    logged_in: bool,
    /// Bytes that came before login was complete.
    login_bytes: usize,
    parameters: Parameters,
    /// Bytes of the answer under way, but for the longest message of it.
    answer: usize,
    /// Bytes of that message.
    longest: usize,
    /// The rows of that answer are kept.
    keeps_rows: bool,
}

/// Names that were reported, by their hashes, and the name that is just coming.
#[derive(Default)]
struct Parameters {
    names: HashSet<u64>,
    keys: RandomState,
    name: Option<DefaultHasher>,
}

impl Limits {
    /// Takes in what was received, wherever in a message that begins and ends.
    ///
    /// # Errors
    /// [`WireError::Protocol`] when it is more than may come.
    pub(crate) fn follow(&mut self, mut received: &[u8]) -> Result<(), WireError> {
        self.count_login(received.len())?;
        while let [byte, after @ ..] = received {
            if self.rest > 0 {
                let (payload, after) = received.split_at(self.rest.min(received.len()));
                self.rest -= payload.len();
                if self.tag == PARAMETER_STATUS_TAG {
                    self.parameters.follow(payload)?;
                }
                received = after;
                continue;
            }
            self.header[self.filled] = *byte;
            self.filled += 1;
            received = after;
            if self.filled == TAG_AND_LENGTH {
                self.filled = 0;
                self.begin()?;
            }
        }
        Ok(())
    }

    /// Counts the bytes of a login, with those that were read together with its last one: nothing was asked yet.
    fn count_login(&mut self, bytes: usize) -> Result<(), WireError> {
        if self.logged_in {
            return Ok(());
        }
        self.login_bytes += bytes;
        if self.login_bytes > LOGIN_BYTES_MAX {
            return Err(WireError::protocol(format!(
                "more than {LOGIN_BYTES_MAX} bytes before the login is complete: is this a PostgreSQL port?"
            )));
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), WireError> {
        let [tag, length @ ..] = self.header;
        // A length below 4 is an error to tokio-postgres.
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        wire::check_length(tag, length, self.logged_in)?;
        (self.tag, self.rest) = (tag, length.saturating_sub(4));
        match tag {
            READY_FOR_QUERY_TAG => {
                (self.logged_in, self.keeps_rows) = (true, false);
                (self.answer, self.longest) = (0, 0);
                return Ok(());
            }
            // tokio-postgres keeps the rows of what it has bound parameters for, and passes on those of anything else.
            BIND_COMPLETE_TAG => self.keeps_rows = true,
            PARAMETER_STATUS_TAG => self.parameters.begin(),
            _ => {}
        }
        let is_kept = tag != DATA_ROW_TAG || self.keeps_rows;
        self.count(if is_kept { length } else { 0 })
    }

    fn count(&mut self, kept: usize) -> Result<(), WireError> {
        let kept = kept.saturating_add(ROW_BYTES);
        self.answer = self.answer.saturating_add(kept.min(self.longest));
        self.longest = self.longest.max(kept);
        check_answer(self.answer, ANSWER_BYTES_MAX)
    }
}

impl Parameters {
    fn begin(&mut self) {
        self.name = Some(self.keys.build_hasher());
    }

    /// A part of a ParameterStatus. The name ends with a zero; the value behind it takes the place of the one before.
    fn follow(&mut self, payload: &[u8]) -> Result<(), WireError> {
        let Some(mut name) = self.name.take() else { return Ok(()) };
        let end = payload.iter().position(|byte| *byte == 0);
        name.write(&payload[..end.unwrap_or(payload.len())]);
        if end.is_none() {
            self.name = Some(name);
            return Ok(());
        }
        self.names.insert(name.finish());
        if self.names.len() > PARAMETERS_MAX {
            return Err(WireError::protocol(format!(
                "more than {PARAMETERS_MAX} parameters with names of their own: is this a PostgreSQL port?"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(tag: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len() + 4).unwrap();
        [&[tag], length.to_be_bytes().as_slice(), payload].concat()
    }

    fn logged_in() -> Limits {
        let mut limits = Limits::default();
        limits.follow(&message(b'Z', b"I")).unwrap();
        limits
    }

    /// Said in pieces of every size, so that names and lengths are torn.
    #[test]
    fn a_parameter_that_is_reported_again_counts_once() {
        let mut limits = logged_in();
        for size in 1..50 {
            for name in ["TimeZone", "application_name", ""] {
                let said = message(b'S', format!("{name}\0value {size}\0").as_bytes());
                for piece in said.chunks(size) {
                    limits.follow(piece).unwrap();
                }
            }
        }
        for number in limits.parameters.names.len()..PARAMETERS_MAX {
            limits.follow(&message(b'S', format!("p{number}\0v\0").as_bytes())).unwrap();
        }
        let error = limits.follow(&message(b'S', b"one more\0v\0")).unwrap_err();
        assert!(error.to_string().contains("256 parameters"), "{error}");
    }

    #[test]
    fn a_login_is_limited_as_a_whole_and_what_follows_it_is_not() {
        let notice = message(b'N', &[b'x'; 1000]);
        let mut limits = Limits::default();
        let refused = (0..).find_map(|said| limits.follow(&notice).err().map(|error| (said, error)));
        let (said, error) = refused.unwrap();
        assert!(said * notice.len() <= LOGIN_BYTES_MAX, "{said}");
        assert!(error.to_string().contains("before the login is complete"), "{error}");
        let mut limits = logged_in();
        assert!((0..10_000).all(|_| limits.follow(&notice).is_ok()));
    }

    #[test]
    fn rows_of_an_answer_are_limited_and_one_may_be_as_long_as_any() {
        let header = |length: usize| [&b"D"[..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
        let mut limits = logged_in();
        limits.follow(&message(b'2', b"")).unwrap();
        limits.follow(&header(1 << 30)).unwrap();
        limits.rest = 0;
        limits.follow(&message(b'C', b"SELECT 1\0")).unwrap();
        let error = limits.follow(&header(1 << 30)).unwrap_err();
        assert!(error.to_string().contains("64 MiB"), "{error}");

        let row = message(b'D', &[0, 0]);
        let mut limits = logged_in();
        limits.follow(&message(b'2', b"")).unwrap();
        let rows = (0..).find(|_| limits.follow(&row).is_err()).unwrap();
        assert!(rows < ANSWER_BYTES_MAX / ROW_BYTES, "{rows}");
        // The next answer counts from none, and portions of a table may be as long as any.
        let mut limits = logged_in();
        for _ in 0..3 {
            limits.follow(&message(b'2', b"")).unwrap();
            assert!((0..rows / 2).all(|_| limits.follow(&row).is_ok()));
            limits.follow(&message(b'Z', b"I")).unwrap();
        }
        for _ in 0..256 {
            limits.follow(&header(1 << 30)).unwrap();
            limits.rest = 0;
        }
    }

    /// Whoever asked may be gone.
    #[test]
    fn whatever_comes_without_end_is_given_up() {
        for said in
            [message(b'N', b"x"), message(b'T', &[0, 0]), message(b'D', &[0, 0]), message(b'S', b"a\0b\0")]
        {
            let mut limits = logged_in();
            let refused = (0..2 * ANSWER_BYTES_MAX / ROW_BYTES).find_map(|_| limits.follow(&said).err());
            assert!(refused.unwrap().to_string().contains("64 MiB"));
        }
    }
}
