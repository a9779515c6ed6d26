//! Frames: PostgreSQL's messages over a [`Socket`], without copying their payload.
//!
//! Knows lengths, tags, and the messages that may come at any time (notices, parameter changes). Does not know what
//! other messages mean: `login` and `stream` do.
//!
//! One function reads and writes. A caller that waits for the server also writes what is queued, so no call waits for
//! writing alone, and the next call continues a half-written frame. Dropping a future of this module loses nothing.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::{
    COPY_DATA_TAG, DATA_ROW_TAG, ERROR_RESPONSE_TAG, Header, Message, NOTICE_RESPONSE_TAG,
    NOTIFICATION_RESPONSE_TAG, PARAMETER_STATUS_TAG,
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    time::Instant,
};

use super::{
    socket::Socket,
    wire_error::{ServerError, WireError},
};

/// Longest message with a row or copy data. PostgreSQL builds each in a buffer of at most 1 GiB (`MaxAllocSize`,
/// memutils.h).
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// Longest error or notice. Its text may quote a value.
const WORDS_BYTES_MAX: usize = 16 << 20;
/// Longest other message. The description of 1,600 columns takes a seventh of it.
const OTHER_BYTES_MAX: usize = 1 << 20;
/// Longest message before login is complete, when the server is not identified yet, and longest parameter at any
/// time.
pub(crate) const LOGIN_MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Reads without a frame for the caller before other tasks get a turn, so that a server that never pauses blocks
/// none.
const READS_AT_ONCE: usize = 16;

/// Size of one block of the input buffer. Frames keep their block alive, and a block serves many frames. Larger
/// blocks save few system calls, and each source has several.
const BLOCK_BYTES: usize = 64 << 10;
/// Least free room in a block before a new one begins: little is wasted, and small frames still share a block.
const ROOM_BYTES_MIN: usize = 8 << 10;
/// Capacity above which an empty buffer is released, after a large frame has grown it.
const BLOCK_BYTES_KEPT: usize = 1 << 20;

pub(crate) const TAG_AND_LENGTH: usize = 5;

/// A connection to a server, as frames.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    input: BytesMut,
    output: BytesMut,
    /// Error of a failed write. Reported only when reading ends too, because the server's last message tells more.
    write_error: Option<io::Error>,
    logged_in: bool,
    last_heard: Instant,
    /// The parameter `server_encoding`, which the server reports at login.
    server_encoding: Option<String>,
    /// The parameter `search_path`, which servers report since version 18.
    search_path: Option<String>,
}

/// One message of the server.
#[derive(Debug)]
pub(crate) struct Frame {
    tag: u8,
    /// The whole message, with tag and length.
    bytes: BytesMut,
}

impl Frame {
    pub(crate) fn tag(&self) -> u8 {
        self.tag
    }

    /// Returns the payload, without tag and length. Shares the receive buffer's block.
    pub(crate) fn into_payload(self) -> Bytes {
        let mut bytes = self.bytes.freeze();
        bytes.advance(TAG_AND_LENGTH);
        bytes
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[TAG_AND_LENGTH..]
    }

    /// Parses the message. Not for CopyBothResponse, which postgres-protocol does not know.
    pub(crate) fn parse(mut self) -> Result<Message, WireError> {
        let tag = self.tag;
        let message = Message::parse(&mut self.bytes)
            .map_err(|error| WireError::protocol(format!("{}: {error}", name_of(tag))))?;
        message.ok_or_else(|| WireError::protocol(format!("{}: too short", name_of(tag))))
    }

    /// Returns the error for a message that is not allowed at this point.
    pub(crate) fn unexpected(&self, doing: &str) -> WireError {
        WireError::protocol(format!("{} while {doing}", name_of(self.tag)))
    }
}

fn name_of(tag: u8) -> String {
    format!("message '{}'", tag.escape_ascii())
}

/// Refuses a length that a PostgreSQL server never announces, before login or after.
pub(crate) fn check_length(tag: u8, length: usize, logged_in: bool) -> Result<(), WireError> {
    let max = match tag {
        _ if !logged_in => LOGIN_MESSAGE_BYTES_MAX,
        COPY_DATA_TAG | DATA_ROW_TAG => MESSAGE_BYTES_MAX,
        ERROR_RESPONSE_TAG | NOTICE_RESPONSE_TAG => WORDS_BYTES_MAX,
        PARAMETER_STATUS_TAG => LOGIN_MESSAGE_BYTES_MAX,
        _ => OTHER_BYTES_MAX,
    };
    if length <= max {
        return Ok(());
    }
    Err(WireError::protocol(format!(
        "{} announces {length} bytes where at most {max} may come: is this a PostgreSQL port?",
        name_of(tag)
    )))
}

impl Wire {
    /// Creates a connection before login. [`LOGIN_MESSAGE_BYTES_MAX`] limits messages until [`Self::logged_in`].
    pub(crate) fn new(socket: Socket) -> Self {
        Wire {
            socket,
            input: BytesMut::new(),
            output: BytesMut::new(),
            write_error: None,
            logged_in: false,
            last_heard: Instant::now(),
            server_encoding: None,
            search_path: None,
        }
    }

    /// Raises the limits of messages to those after login.
    pub(crate) fn logged_in(&mut self) {
        self.logged_in = true;
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Returns the database's encoding, if the server has reported it.
    pub(crate) fn server_encoding(&self) -> Option<&str> {
        self.server_encoding.as_deref()
    }

    /// Returns the session's search path, if the server has reported it.
    pub(crate) fn search_path(&self) -> Option<&str> {
        self.search_path.as_deref()
    }

    /// Returns the time of the last bytes from the server.
    pub(crate) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Tells whether all queued bytes have been handed to the operating system.
    pub(crate) fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Returns the buffer for outgoing frames. The next call that waits writes them.
    pub(crate) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Writes as many queued bytes as the socket accepts at once. Never waits.
    pub(crate) async fn try_flush(&mut self) -> Result<(), WireError> {
        poll_fn(|cx| {
            self.write_some(cx);
            Poll::Ready(())
        })
        .await;
        match self.write_error.take() {
            None => Ok(()),
            Some(error) => Err(WireError::from_io("writing", error)),
        }
    }

    /// Returns the next message, and handles notices and parameter changes before it. An ErrorResponse becomes
    /// [`WireError::Server`].
    pub(crate) async fn next_frame(&mut self) -> Result<Frame, WireError> {
        loop {
            for _ in 0..READS_AT_ONCE {
                if let Some(frame) = self.next_frame_ready()? {
                    return Ok(frame);
                }
                poll_fn(|cx| self.poll_receive(cx)).await?;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Returns the next message if it has arrived. No system call.
    pub(crate) fn next_frame_ready(&mut self) -> Result<Option<Frame>, WireError> {
        while let Some(frame) = self.split_frame()? {
            match frame.tag {
                COPY_DATA_TAG => return Ok(Some(frame)),
                ERROR_RESPONSE_TAG => {
                    return Err(match frame.parse()? {
                        Message::ErrorResponse(body) => ServerError::from_fields(body.fields()).into(),
                        _ => WireError::protocol("an ErrorResponse that is none"),
                    });
                }
                NOTICE_RESPONSE_TAG => {
                    if let Message::NoticeResponse(body) = frame.parse()? {
                        tracing::debug!(notice = %ServerError::from_fields(body.fields()), "notice from PostgreSQL");
                    }
                }
                PARAMETER_STATUS_TAG => {
                    if let Message::ParameterStatus(body) = frame.parse()? {
                        match (body.name(), body.value()) {
                            (Ok("server_encoding"), Ok(encoding)) => {
                                self.server_encoding = Some(encoding.to_owned());
                            }
                            (Ok("search_path"), Ok(path)) => self.search_path = Some(path.to_owned()),
                            _ => {}
                        }
                    }
                }
                NOTIFICATION_RESPONSE_TAG => {}
                _ => return Ok(Some(frame)),
            }
        }
        Ok(None)
    }

    fn split_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let Some((tag, length)) = self.announced()? else { return Ok(None) };
        if self.input.len() < length {
            return Ok(None);
        }
        Ok(Some(Frame { tag, bytes: self.input.split_to(length) }))
    }

    /// Returns tag and total length of the message at the input's start, or an error when the length exceeds its
    /// limit.
    fn announced(&self) -> Result<Option<(u8, usize)>, WireError> {
        let header = Header::parse(&self.input).map_err(|error| WireError::protocol(error.to_string()))?;
        let Some(header) = header else { return Ok(None) };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        check_length(header.tag(), length, self.logged_in)?;
        Ok(Some((header.tag(), length + 1)))
    }

    /// Writes what the socket accepts, and reads once.
    pub(crate) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.write_some(cx);
        self.make_room()?;
        let read = {
            let reading = pin!(self.socket.read_buf(&mut self.input));
            ready!(reading.poll(cx))
        };
        Poll::Ready(match read {
            Ok(0) => Err(self.closed()),
            Ok(_) => {
                self.last_heard = Instant::now();
                Ok(())
            }
            Err(error) => match WireError::from_io("reading", error) {
                WireError::Closed { .. } => Err(self.closed()),
                other => Err(other),
            },
        })
    }

    fn closed(&mut self) -> WireError {
        match self.write_error.take() {
            Some(error) => WireError::from_io("writing", error),
            None => WireError::Closed { mid_message: !self.input.is_empty() },
        }
    }

    /// Makes room for the next read. For a long message the room doubles with the bytes that have arrived, so an
    /// announced length alone takes no memory.
    fn make_room(&mut self) -> Result<(), WireError> {
        if self.input.is_empty() && self.input.capacity() > BLOCK_BYTES_KEPT {
            self.input = BytesMut::new();
        }
        let filled = self.input.len();
        let missing = match self.announced()? {
            Some((_, length)) => length.saturating_sub(filled),
            None => 0,
        };
        let room = self.input.capacity() - filled;
        if room < ROOM_BYTES_MIN || (room < missing && room < BLOCK_BYTES) {
            // The rest of a block counts: a block whose frames are all released is reused, not doubled.
            let rest_of_block = BLOCK_BYTES.saturating_sub(filled).max(ROOM_BYTES_MIN);
            self.input.reserve(rest_of_block.max(missing.min(filled)));
        }
        Ok(())
    }

    /// Writes what the socket accepts.
    pub(crate) fn write_some(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.poll_write_all(cx) {
            self.output.clear();
            self.write_error.get_or_insert(error);
        }
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        // TLS buffers, too.
        Pin::new(&mut self.socket).poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::{io::AsyncWriteExt, net::UnixStream};

    #[tokio::test]
    async fn an_announced_length_takes_as_much_memory_as_has_come() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut wire = Wire::new(Socket::Unix(ours));
        wire.logged_in();
        let server = async move {
            // The longest allowed message, of which only the beginning arrives.
            theirs.write_all(b"d").await.unwrap();
            theirs.write_all(&u32::try_from(MESSAGE_BYTES_MAX).unwrap().to_be_bytes()).await.unwrap();
            theirs.write_all(&[7; 300_000]).await.unwrap();
        };
        let (frame, ()) = tokio::join!(wire.next_frame(), server);
        let error = frame.unwrap_err();
        assert!(matches!(error, WireError::Closed { mid_message: true }), "{error:?}");
        assert!(wire.input.capacity() < 2_000_000, "{}", wire.input.capacity());
    }
}
