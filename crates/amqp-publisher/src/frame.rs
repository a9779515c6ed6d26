//! Frames as bytes (AMQP 0-9-1 specification, 2.3.5), and the check whether their payload may be parsed. Pure,
//! bounded, without recursion.
//!
//! The codec, `amq-protocol`, parses nested tables and arrays by recursion of any depth, and refuses text that is not
//! UTF-8. One message could so overflow a thread's stack or end a connection. A payload that passes the check here is
//! parsed within [`NESTING_MAX`] levels.
//!
//! The broker's remarks, such as a reply text, quote names from messages, and RabbitMQ cuts them after a number of
//! bytes, even within a character. `mend_remark` makes them valid UTF-8 before the check.

use std::{io, ops::Range};

use bytes::{Buf, BytesMut};

/// Size of a frame's head: type, channel and length.
pub const HEAD_BYTES: usize = 7;
/// Size of a frame without payload: the head and the end octet.
pub const FRAME_OVERHEAD_BYTES: usize = HEAD_BYTES + 1;
/// Frame size that every peer accepts (specification, `frame-min-size`).
pub const FRAME_BYTES_MIN: usize = 4096;
/// End octet of a frame.
pub const FRAME_END: u8 = 0xCE;
/// Deepest nesting of tables and arrays. RabbitMQ's own, as in `x-death`, have four levels.
pub const NESTING_MAX: usize = 32;

/// Frame type of a method (4.2.3).
pub const METHOD: u8 = 1;
/// Frame type of a content header: body size and properties of a message.
pub const HEADER: u8 = 2;
/// Frame type of a part of a message's body.
pub const BODY: u8 = 3;
/// Frame type of a heartbeat, on channel 0 and without payload.
pub const HEARTBEAT: u8 = 8;

/// Class and method of `connection.tune`.
pub const TUNE: (u16, u16) = (10, 30);
/// Class and method of `basic.return`.
pub const RETURN: (u16, u16) = (60, 50);
/// Class and method of `basic.deliver`.
pub const DELIVER: (u16, u16) = (60, 60);
/// Class and method of `basic.get-ok`.
pub const GET_OK: (u16, u16) = (60, 71);

/// Head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// One of the four frame types.
    pub kind: u8,
    /// Channel, 0 for the connection itself.
    pub channel: u16,
    /// Length of the whole frame, including its overhead.
    pub length: usize,
}

impl Head {
    /// Returns the head of the frame at the start of `bytes`; `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the bytes are not a frame of AMQP 0-9-1.
    pub fn peek(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(&[kind, a, b, length @ ..]) = bytes.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        match kind {
            METHOD | HEADER | BODY | HEARTBEAT => {}
            b'A' => {
                return Err(not_amqp("the broker answers that it speaks another version of AMQP than 0-9-1"));
            }
            kind => {
                return Err(not_amqp(format!(
                    "what comes is not AMQP 0-9-1, which has no frame of type {kind}"
                )));
            }
        }
        let length = FRAME_OVERHEAD_BYTES + u32::from_be_bytes(length) as usize;
        Ok(Some(Self { kind, channel: u16::from_be_bytes([a, b]), length }))
    }

    /// Returns the error of a frame above the agreed size.
    fn too_long(self, frame_bytes_max: usize) -> io::Error {
        not_amqp(format!("a frame of {} bytes where at most {frame_bytes_max} may come", self.length))
    }

    /// Returns the error of a frame whose payload must not be parsed.
    pub fn unreadable(self, why: &Unreadable) -> io::Error {
        let Self { kind, length, .. } = self;
        not_amqp(format!("a frame of type {kind} and {length} bytes that cannot be read: {why}"))
    }

    /// Returns the payload of the whole frame `bytes`.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the frame does not end where its head says.
    pub fn payload(self, bytes: &[u8]) -> io::Result<&[u8]> {
        let payload = bytes.get(HEAD_BYTES..).and_then(|rest| rest.strip_suffix(&[FRAME_END]));
        payload.ok_or_else(|| self.unreadable(&Unreadable::NoEnd))
    }

    /// Returns the payload of the whole frame `bytes` for writing.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the frame does not end where its head says.
    fn payload_mut(self, bytes: &mut [u8]) -> io::Result<&mut [u8]> {
        self.payload(bytes)?;
        let end = bytes.len() - 1;
        Ok(&mut bytes[HEAD_BYTES..end])
    }
}

/// Iterator over the frames in a stream of bytes, up to the agreed frame size.
#[derive(Debug)]
pub struct Walk {
    frame_bytes_max: usize,
    /// Bytes of a content header that are still to be skipped.
    skipped: usize,
}

/// Frame of a [`Walk`].
#[derive(Debug)]
pub struct Walked {
    /// Head of the frame.
    pub head: Head,
    /// The frame's bytes. A content header above the frame size is cut to that size.
    pub bytes: BytesMut,
}

impl Walk {
    /// Creates a walk over frames of at most `frame_bytes_max` bytes.
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max, skipped: 0 }
    }

    /// Returns the largest allowed frame.
    pub fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    /// Sets the largest allowed frame.
    pub fn limit(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Removes the next frame from `input`, with its remark made valid UTF-8; `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the bytes are not a frame of AMQP 0-9-1, or the frame is too long. A content header may be
    /// longer, because its publisher may have agreed on longer frames.
    pub fn next(&mut self, input: &mut BytesMut) -> io::Result<Option<Walked>> {
        let skipped = self.skipped.min(input.len());
        input.advance(skipped);
        self.skipped -= skipped;
        let Some(head) = Head::peek(input)? else { return Ok(None) };
        if head.length > self.frame_bytes_max && head.kind != HEADER {
            return Err(head.too_long(self.frame_bytes_max));
        }
        let length = head.length.min(self.frame_bytes_max);
        if input.len() < length {
            return Ok(None);
        }
        let mut bytes = input.split_to(length);
        self.skipped = head.length - length;
        if head.kind == METHOD {
            mend_remark(head.payload_mut(&mut bytes)?);
        }
        Ok(Some(Walked { head, bytes }))
    }
}

impl Walked {
    /// Tells whether the frame is complete.
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == self.head.length
    }

    /// Returns the payload, cut to the largest frame.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the frame does not end where its head says.
    pub fn payload(&self) -> io::Result<&[u8]> {
        match self.is_whole() {
            true => self.head.payload(&self.bytes),
            // Without the last byte, which stands in place of the frame's end.
            false => Ok(&self.bytes[HEAD_BYTES..self.bytes.len() - 1]),
        }
    }

    /// Returns the payload as bytes of its own.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the frame does not end where its head says.
    pub fn into_payload(mut self) -> io::Result<BytesMut> {
        self.payload()?;
        self.bytes.truncate(self.bytes.len() - 1);
        self.bytes.advance(HEAD_BYTES);
        Ok(self.bytes)
    }
}

/// Returns the error of a violation of AMQP 0-9-1.
pub fn not_amqp(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Reason why a payload must not be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Tables or arrays are nested too deeply.
    #[error("the {0} are nested deeper than {NESTING_MAX} levels")]
    TooDeep(&'static str),
    /// A short text is not UTF-8, which its reader requires.
    #[error("the {0} is not UTF-8")]
    NotUtf8(&'static str),
    /// A length does not fit, or a value has an unknown type.
    #[error("a length or a type in the {0} is wrong")]
    Malformed(&'static str),
    /// Bytes are left after the payload.
    #[error("{0} bytes are left over at its end")]
    LeftOver(usize),
    /// A method that only clients send, or that AMQP 0-9-1 does not have.
    #[error("no broker sends method {class}.{method} to a client")]
    UnknownMethod {
        /// Class of the method.
        class: u16,
        /// Number of the method in its class.
        method: u16,
    },
    /// The end octet is missing.
    #[error("it does not end where it says")]
    NoEnd,
}

/// Checks that amq-protocol can parse the payload of a frame of this type, in bounded depth.
///
/// # Errors
///
/// [`Unreadable`], with the reason.
pub fn check(kind: u8, payload: &[u8]) -> Result<(), Unreadable> {
    match kind {
        METHOD => method(payload),
        HEADER => content_header(payload),
        _ => Ok(()),
    }
}

/// Replaces each byte of a method's remark that is not UTF-8 by `?`. The length stays: a longer text might lose its
/// end, which distinguishes refusals.
///
/// RabbitMQ up to 3.11 cuts a text at 252 bytes, even within a character. Later versions write `ä` as one byte
/// (Latin-1).
pub(crate) fn mend_remark(payload: &mut [u8]) {
    let Some(text) = remark(payload).and_then(|range| payload.get_mut(range)) else { return };
    let mut checked = 0;
    while let Err(error) = std::str::from_utf8(&text[checked..]) {
        checked += error.valid_up_to();
        text[checked] = b'?';
    }
}

/// Returns the range of a method's remark, if it has one of the announced length.
fn remark(payload: &[u8]) -> Option<Range<usize>> {
    let method = method_of(payload)?;
    let fields = METHODS.iter().find(|(of, number, _)| (*of, *number) == method)?.2;
    let mut cursor = Cursor(payload);
    cursor.bytes(4)?;
    for field in fields {
        if let Remark(_) = field {
            let length = cursor.short()?.len();
            let end = payload.len() - cursor.0.len();
            return Some(end - length..end);
        }
        cursor.pass(*field).ok()?;
    }
    None
}

/// Returns class and number of the method at the start of a payload.
pub fn method_of(payload: &[u8]) -> Option<(u16, u16)> {
    let mut cursor = Cursor(payload);
    Some((cursor.u16()?, cursor.u16()?))
}

/// Returns the body size in a content header; 0 if it is missing.
pub fn body_size(content_header: &[u8]) -> u64 {
    let size = content_header.get(4..).and_then(|rest| rest.first_chunk());
    size.map_or(0, |size| u64::from_be_bytes(*size))
}

/// Part of a method or of the properties.
#[derive(Clone, Copy)]
enum Field {
    /// A number of so many bytes, or up to eight bits.
    Fixed(usize),
    /// A short text with this name.
    Short(&'static str),
    /// A short text with this name that the broker composes for people.
    Remark(&'static str),
    /// A length of four bytes and as many bytes.
    Long,
    /// A table with this name.
    Table(&'static str),
}

use Field::{Fixed, Long, Remark, Short, Table};

/// Methods that RabbitMQ sends to a client, with their parts. RabbitMQ never sends `channel.flow`.
const METHODS: [(u16, u16, &[Field]); 36] = [
    (10, 10, &[Fixed(2), Table("server properties"), Long, Long]),
    (10, 20, &[Long]),
    (10, 30, &[Fixed(8)]),
    (10, 41, &[Short("known hosts")]),
    (10, 50, &CLOSE),
    (10, 51, &[]),
    (10, 60, &[Remark("reason")]),
    (10, 61, &[]),
    (10, 71, &[]),
    (20, 11, &[Long]),
    (20, 40, &CLOSE),
    (20, 41, &[]),
    (40, 11, &[]),
    (40, 21, &[]),
    (40, 31, &[]),
    (40, 51, &[]),
    (50, 11, &[Short("queue"), Fixed(8)]),
    (50, 21, &[]),
    (50, 31, &[Fixed(4)]),
    (50, 41, &[Fixed(4)]),
    (50, 51, &[]),
    (60, 11, &[]),
    (60, 21, &[Short("consumer tag")]),
    (60, 30, &[Short("consumer tag"), Fixed(1)]),
    (60, 31, &[Short("consumer tag")]),
    (60, 50, &[Fixed(2), Remark("reply text"), Short("exchange"), Short("routing key")]),
    (60, 60, &[Short("consumer tag"), Fixed(9), Short("exchange"), Short("routing key")]),
    (60, 71, &[Fixed(9), Short("exchange"), Short("routing key"), Fixed(4)]),
    (60, 72, &[Short("cluster id")]),
    (60, 80, &[Fixed(9)]),
    (60, 111, &[]),
    (60, 120, &[Fixed(9)]),
    (85, 11, &[]),
    (90, 11, &[]),
    (90, 21, &[]),
    (90, 31, &[]),
];
/// Parts of a close: reply code, reply text, and the class and method that caused it.
const CLOSE: [Field; 3] = [Fixed(2), Remark("reply text"), Fixed(4)];

/// Properties of a message with their flags, in wire order.
const PROPERTIES: [(u16, Field); 14] = [
    (1 << 15, Short("property content_type")),
    (1 << 14, Short("property content_encoding")),
    (HEADERS_FLAG, Table("headers")),
    (1 << 12, Fixed(1)),
    (1 << 11, Fixed(1)),
    (1 << 10, Short("property correlation_id")),
    (1 << 9, Short("property reply_to")),
    (1 << 8, Short("property expiration")),
    (1 << 7, Short("property message_id")),
    (1 << 6, Fixed(8)),
    (1 << 5, Short("property type")),
    (1 << 4, Short("property user_id")),
    (1 << 3, Short("property app_id")),
    (1 << 2, Short("property cluster_id")),
];
/// Flag of the table `headers`.
pub const HEADERS_FLAG: u16 = 1 << 13;

fn method(payload: &[u8]) -> Result<(), Unreadable> {
    let mut cursor = Cursor(payload);
    let (Some(class), Some(method)) = (cursor.u16(), cursor.u16()) else {
        return Err(Unreadable::Malformed("method"));
    };
    let known = METHODS.iter().find(|(of, number, _)| (*of, *number) == (class, method));
    let Some((.., fields)) = known else { return Err(Unreadable::UnknownMethod { class, method }) };
    fields.iter().try_for_each(|field| cursor.pass(*field))?;
    cursor.end()
}

fn content_header(payload: &[u8]) -> Result<(), Unreadable> {
    let mut cursor = Cursor(payload);
    let flags = cursor.content_head().ok_or(Unreadable::Malformed("content header"))?.flags;
    for (flag, field) in PROPERTIES {
        if flags & flag != 0 {
            cursor.pass(field)?;
        }
    }
    cursor.end()
}

/// Start of a content header.
#[derive(Debug)]
pub struct ContentHead<'a> {
    /// Class, weight and size of the body.
    pub fixed: &'a [u8],
    /// Flags of the properties that follow.
    pub flags: u16,
}

/// Raw property of a content header.
#[derive(Debug)]
pub enum Property<'a> {
    /// A number, or a time.
    Fixed(&'a [u8]),
    /// A short text.
    Text(&'a [u8]),
    /// The entries of the table `headers`.
    Headers(&'a [u8]),
}

/// Returns the properties of a content header with their flags, as far as lengths allow. Their content is not
/// checked.
pub fn properties<'a>(flags: u16, mut cursor: Cursor<'a>) -> impl Iterator<Item = (u16, Property<'a>)> + 'a {
    PROPERTIES.into_iter().filter(move |(flag, _)| flags & flag != 0).map_while(move |(flag, field)| {
        let property = match field {
            Fixed(bytes) => Property::Fixed(cursor.bytes(bytes)?),
            Short(_) | Remark(_) => Property::Text(cursor.short()?),
            // A table that is cut off is read to its end, and nothing follows it.
            Long | Table(_) => Property::Headers(cursor.long_or_rest()?),
        };
        Some((flag, property))
    })
}

/// Checks that amq-protocol can parse a value nested in `level` tables or arrays. `what` names the outermost.
///
/// # Errors
///
/// [`Unreadable`], with the reason.
pub fn check_value(value: Value<'_>, level: usize, what: &'static str) -> Result<(), Unreadable> {
    match value {
        Value::Plain => Ok(()),
        Value::Nested { content, named } => walk(content, named, level + 1, what),
    }
}

/// Skips the content of a table or array at nesting `level`.
fn walk(content: &[u8], named: bool, level: usize, what: &'static str) -> Result<(), Unreadable> {
    let malformed = Unreadable::Malformed(what);
    if level > NESTING_MAX {
        return Err(Unreadable::TooDeep(what));
    }
    let mut open = vec![(Cursor(content), named)];
    loop {
        let nesting = level - 1 + open.len();
        let Some((cursor, named)) = open.last_mut() else { return Ok(()) };
        if cursor.is_empty() {
            open.pop();
            continue;
        }
        if *named && std::str::from_utf8(cursor.short().ok_or(malformed)?).is_err() {
            return Err(Unreadable::NotUtf8(name_in(what)));
        }
        if let Value::Nested { content, named } = cursor.value().ok_or(malformed)? {
            if nesting == NESTING_MAX {
                return Err(Unreadable::TooDeep(what));
            }
            open.push((Cursor(content), named));
        }
    }
}

fn name_in(what: &'static str) -> &'static str {
    match what {
        "headers" => "name of a header",
        _ => "name of a server property",
    }
}

/// Raw value of a table or array.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A number, a time, a long text, or void.
    Plain,
    /// A table, whose members have names, or an array.
    Nested {
        /// Raw members.
        content: &'a [u8],
        /// `true` for a table.
        named: bool,
    },
}

/// Rest of a payload. A read fails if too few bytes are left.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a>(
    /// The remaining bytes.
    pub &'a [u8],
);

impl<'a> Cursor<'a> {
    /// Tells whether no bytes are left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a number of bytes.
    pub fn bytes(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// Reads a number of two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.chunk().map(u16::from_be_bytes)
    }

    /// Reads a length of one byte and as many bytes.
    pub fn short(&mut self) -> Option<&'a [u8]> {
        let [length] = self.chunk()?;
        self.bytes(length.into())
    }

    /// Reads a length of four bytes and as many bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.chunk()?);
        self.bytes(length as usize)
    }

    fn long_or_rest(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.chunk()?) as usize;
        self.bytes(length.min(self.0.len()))
    }

    /// Reads the start of a content header.
    pub fn content_head(&mut self) -> Option<ContentHead<'a>> {
        Some(ContentHead { fixed: self.bytes(12)?, flags: self.u16()? })
    }

    /// Reads a value and the letter of its type, as RabbitMQ and amq-protocol define them.
    pub fn value(&mut self) -> Option<Value<'a>> {
        let [letter] = self.chunk()?;
        let bytes = match letter {
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'V' => 0,
            b'S' | b'x' => return self.long().map(|_| Value::Plain),
            b'A' => return self.long().map(|content| Value::Nested { content, named: false }),
            b'F' => return self.long().map(|content| Value::Nested { content, named: true }),
            _ => return None,
        };
        self.bytes(bytes).map(|_| Value::Plain)
    }

    fn pass(&mut self, field: Field) -> Result<(), Unreadable> {
        match field {
            Fixed(bytes) => self.bytes(bytes).map(drop).ok_or(Unreadable::Malformed("frame")),
            Short(what) | Remark(what) => match self.short().map(std::str::from_utf8) {
                Some(Ok(_)) => Ok(()),
                Some(Err(_)) => Err(Unreadable::NotUtf8(what)),
                None => Err(Unreadable::Malformed(what)),
            },
            Long => self.long().map(drop).ok_or(Unreadable::Malformed("frame")),
            Table(what) => walk(self.long().ok_or(Unreadable::Malformed(what))?, true, 1, what),
        }
    }

    fn end(self) -> Result<(), Unreadable> {
        if self.is_empty() { Ok(()) } else { Err(Unreadable::LeftOver(self.0.len())) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use amq_protocol::frame::parsing::parse_frame;

    use super::*;

    /// Tells whether amq-protocol parses the frame.
    fn parses(kind: u8, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&[kind, 0, 1][..], &length, payload, &[FRAME_END]].concat();
        parse_frame(&frame[..]).is_ok()
    }

    /// Returns the bytes of a field: a short text with one letter, a table with one entry of each kind.
    fn sample(field: Field) -> Vec<u8> {
        match field {
            Fixed(bytes) => vec![1; bytes],
            Short(_) | Remark(_) => b"\x01x".to_vec(),
            Long => b"\0\0\0\x02\xff\xff".to_vec(),
            Table(_) => table(
                &[
                    b"\x01atx\x01bbx\x01cBx\x01dsxx\x01eUxx\x01fuxx\x01gIxxxx\x01hixxxx\x01jfxxxx".to_vec(),
                    b"\x01kDxxxxx\x01lLxxxxxxxx\x01mlxxxxxxxx\x01ndxxxxxxxx\x01oTxxxxxxxx\x01pV".to_vec(),
                    b"\x01qS\0\0\0\x01\xff\x01rx\0\0\0\x01\xff\x01sA\0\0\0\x02tx\x01tF\0\0\0\x04\x01atx"
                        .to_vec(),
                ]
                .concat(),
            ),
        }
    }

    fn table(entries: &[u8]) -> Vec<u8> {
        [&u32::try_from(entries.len()).unwrap().to_be_bytes()[..], entries].concat()
    }

    fn header_of(flags: u16, properties: &[u8]) -> Vec<u8> {
        [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2][..], &flags.to_be_bytes(), properties].concat()
    }

    /// Returns a content header whose headers nest containers to this depth, including the outer table.
    fn nested(letter: u8, depth: usize) -> Vec<u8> {
        let mut content = Vec::new();
        for level in (1..depth).rev() {
            let name: &[u8] = if level == 1 || letter == b'F' { b"\x01n" } else { b"" };
            content = [name, &[letter], &table(&content)].concat();
        }
        header_of(HEADERS_FLAG, &table(&content))
    }

    #[test]
    fn all_that_rabbitmq_sends_passes_and_is_read_and_nothing_passes_that_is_cut_off_or_too_long() {
        let methods = METHODS.iter().map(|(class, method, fields)| {
            let numbers = [class.to_be_bytes(), method.to_be_bytes()].concat();
            (METHOD, [numbers, fields.iter().flat_map(|field| sample(*field)).collect()].concat())
        });
        let flags = PROPERTIES.iter().fold(0, |flags, (flag, _)| flags | flag);
        let all: Vec<u8> = PROPERTIES.iter().flat_map(|(_, field)| sample(*field)).collect();
        for (kind, payload) in methods.chain([(HEADER, header_of(flags, &all)), (HEADER, header_of(0, b""))])
        {
            let shown = payload.escape_ascii();
            assert_eq!(check(kind, &payload), Ok(()), "{shown}");
            assert!(parses(kind, &payload), "{shown}");
            for length in 0..payload.len() {
                assert!(check(kind, &payload[..length]).is_err(), "{length} bytes of {shown}");
            }
            let longer = [&payload[..], b"\0"].concat();
            assert_eq!(check(kind, &longer), Err(Unreadable::LeftOver(1)), "{shown}");
        }
    }

    #[test]
    fn nesting_ends_at_the_limit_which_any_stack_bears() {
        for letter in *b"AF" {
            let deepest = nested(letter, NESTING_MAX);
            assert_eq!(check(HEADER, &deepest), Ok(()));
            // A quarter of a thread's default stack.
            let parsing = std::thread::Builder::new().stack_size(512 << 10);
            assert!(parsing.spawn(move || parses(HEADER, &deepest)).unwrap().join().unwrap());
            for depth in [NESTING_MAX + 1, 1281, 20_000] {
                let deeper = nested(letter, depth.min(2_000));
                assert_eq!(check(HEADER, &deeper), Err(Unreadable::TooDeep("headers")), "{depth}");
            }
        }
        let start = [&[0, 10, 0, 10, 0, 9][..], &nested(b'A', 200)[14..], &[0; 8]].concat();
        assert_eq!(check(METHOD, &start), Err(Unreadable::TooDeep("server properties")));
    }

    #[test]
    fn every_short_string_has_to_be_utf8() {
        for (flag, field) in PROPERTIES {
            let Short(name) = field else { continue };
            let payload = header_of(flag, b"\x02\xc3\x28");
            assert_eq!(check(HEADER, &payload), Err(Unreadable::NotUtf8(name)));
            assert!(!parses(HEADER, &payload), "{name}");
        }
        let name_in_a_table_in_a_table = header_of(HEADERS_FLAG, &table(b"\x01nF\0\0\0\x03\x01\xffV"));
        let refused = check(HEADER, &name_in_a_table_in_a_table);
        assert_eq!(refused, Err(Unreadable::NotUtf8("name of a header")));
        let routing_key = b"\0\x3c\0\x3c\0\0\0\0\0\0\0\0\0\0\0\x01\xff";
        assert_eq!(check(METHOD, routing_key), Err(Unreadable::NotUtf8("routing key")));
    }

    #[test]
    fn a_remark_that_is_cut_in_a_character_or_is_latin_1_keeps_its_length_and_is_read() {
        // `ä` in UTF-8 and in Latin-1, and incomplete characters of two and of four bytes.
        let said = b"'\xc3\xa4\xe4' \xc3... \xf0\x9f\x98";
        let mended = "'ä?' ?... ???".as_bytes();
        let mut remarks = 0;
        for (class, method, fields) in METHODS {
            let method_with = |text: &[u8]| {
                let numbers = [class.to_be_bytes(), method.to_be_bytes()].concat();
                let fields = fields.iter().flat_map(|field| match field {
                    Remark(_) => [&[u8::try_from(text.len()).unwrap()], text].concat(),
                    field => sample(*field),
                });
                [numbers, fields.collect()].concat()
            };
            let mut payload = method_with(said);
            let is_unreadable = matches!(check(METHOD, &payload), Err(Unreadable::NotUtf8(_)));
            mend_remark(&mut payload);
            assert_eq!(payload, method_with(mended), "{}", payload.escape_ascii());
            assert_eq!(check(METHOD, &payload), Ok(()));
            assert!(parses(METHOD, &payload));
            remarks += usize::from(is_unreadable);
            for length in 0..payload.len() {
                mend_remark(&mut payload.clone()[..length]);
            }
        }
        assert_eq!(remarks, 4, "connection.close, connection.blocked, channel.close and basic.return");
    }

    #[test]
    fn what_no_broker_sends_is_refused_before_its_tables_are_read() {
        // `queue.declare` has a table, and only clients send it.
        let refused = check(METHOD, b"\0\x32\0\x0a\0\0");
        assert_eq!(refused, Err(Unreadable::UnknownMethod { class: 50, method: 10 }));
        assert!(Head::peek(b"HTTP/1.1 400").unwrap_err().to_string().contains("no frame of type 72"));
        assert!(Head::peek(b"AMQP\0\x01\0\0").unwrap_err().to_string().contains("another version"));
        assert_eq!(Head::peek(b"\x01\0\0\0\0\0").unwrap(), None);
    }
}
