//! Limits of what a server may send over an SQL connection.
//!
//! tokio-postgres keeps all parameters, all notices of a login and all rows of an answer. It also reads an answer to
//! its end after the caller has gone, so an endless answer would hold its connection for ever. The limits here end
//! such a connection.
//!
//! Knows where a message begins and which messages tokio-postgres keeps. Does not know their meaning.

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

/// Most bytes before a login is complete. PostgreSQL sends about two thousand, and the notices of a login trigger.
pub(crate) const LOGIN_BYTES_MAX: usize = 1 << 20;
/// Most parameters that a server may report. PostgreSQL reports fewer than twenty.
pub(crate) const PARAMETERS_MAX: usize = 256;
/// Most bytes of one answer, or between two answers, without its longest message, because a single row may have any
/// size. Rows of a table are read in portions by the simple protocol and not kept; they count by number only.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Least memory that a row takes in addition to its bytes on the wire.
pub(crate) const ROW_BYTES: usize = 128;

/// Refuses an answer of more than `max` bytes.
pub(crate) fn check_answer(bytes: usize, max: usize) -> Result<(), WireError> {
    if bytes > max {
        let mib = max >> 20;
        return Err(WireError::protocol(format!("an answer that takes more than {mib} MiB")));
    }
    Ok(())
}

/// Counter of the server's messages.
#[derive(Default)]
pub(crate) struct Limits {
    /// Tag and length of the next message, as far as received.
    header: [u8; TAG_AND_LENGTH],
    filled: usize,
    /// Tag of the current message.
    tag: u8,
    /// Bytes of the current message that are still to come.
    rest: usize,
    logged_in: bool,
    /// Bytes received before the login was complete.
    login_bytes: usize,
    parameters: Parameters,
    /// Bytes of the current answer, without its longest message.
    answer: usize,
    /// Bytes of the answer's longest message.
    longest: usize,
    /// tokio-postgres keeps the answer's rows.
    keeps_rows: bool,
}

/// Names of reported parameters, as hashes, and the name that is being received.
#[derive(Default)]
struct Parameters {
    names: HashSet<u64>,
    keys: RandomState,
    name: Option<DefaultHasher>,
}

impl Limits {
    /// Counts received bytes. They may begin and end anywhere in a message.
    ///
    /// # Errors
    /// [`WireError::Protocol`] when a limit is exceeded.
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

    /// Counts the bytes of a login. Bytes read together with its last ones count too, because no query was sent yet.
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
        // tokio-postgres refuses a length below 4.
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        wire::check_length(tag, length, self.logged_in)?;
        (self.tag, self.rest) = (tag, length.saturating_sub(4));
        match tag {
            READY_FOR_QUERY_TAG => {
                (self.logged_in, self.keeps_rows) = (true, false);
                (self.answer, self.longest) = (0, 0);
                return Ok(());
            }
            // tokio-postgres keeps the rows of a statement with bound parameters and passes all others on.
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

    /// Reads a part of a ParameterStatus: a name, a zero, and the value that replaces the previous one.
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

    /// Received in pieces of every size, so that names and lengths are split.
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
        // The count restarts with the next answer, and portions of a table may have any size.
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

    /// Holds after the caller has gone, too.
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
