//! Frames: PostgreSQL's messages over a [`Socket`], without copying what they carry.
//!
//! Knows length, tag, and what may come at any time (notices, parameter changes). Does not know what the messages are
//! about: login, commands and the copy stream are `login`'s and `replication`'s.
//!
//! Reading and writing are one pump. Whoever waits for the server also writes what is queued, so nobody ever waits for
//! writing alone, and a half-written frame is continued by the next call, whichever that is. Dropping a future of this
//! module loses nothing.

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

/// No message is longer: PostgreSQL builds each in a buffer that cannot exceed 1 GiB (`MaxAllocSize`, memutils.h). Only rows need as
/// much.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// No error or notice is longer. Their words may quote a value.
const WORDS_BYTES_MAX: usize = 16 << 20;
/// Nor any other message: the description of 1,600 columns takes a seventh of it.
const OTHER_BYTES_MAX: usize = 1 << 20;
/// Nor any before login is complete, when we do not know yet who is talking, nor a parameter later.
pub(crate) const LOGIN_MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Reads that bring nothing but what may come at any time, before everybody else has a turn: a server that never pauses stops nobody.
const READS_AT_ONCE: usize = 16;

/// One block of the input buffer. Frames handed out keep their block alive, and a block serves many frames. Larger ones save
/// few system calls, and each source has a few.
const BLOCK_BYTES: usize = 64 << 10;
/// A block with less room than this is left behind for a new one: small enough to waste little, and large enough that
/// a slow trickle of small frames still shares one block.
const ROOM_BYTES_MIN: usize = 8 << 10;
/// A frame grew the buffer beyond this: it is given back as soon as it is empty.
const BLOCK_BYTES_KEPT: usize = 1 << 20;

pub(crate) const TAG_AND_LENGTH: usize = 5;

/// A server's end of a conversation.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    input: BytesMut,
    output: BytesMut,
    /// Writing failed. Said only when reading ends too: the server's last words, if any, tell more.
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
    /// With tag and length.
    bytes: BytesMut,
}

impl Frame {
    pub(crate) fn tag(&self) -> u8 {
        self.tag
    }

    /// What follows tag and length. Shares the block that it was received into.
    pub(crate) fn into_payload(self) -> Bytes {
        let mut bytes = self.bytes.freeze();
        bytes.advance(TAG_AND_LENGTH);
        bytes
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[TAG_AND_LENGTH..]
    }

    /// The message; not for CopyBothResponse, which postgres-protocol does not know.
    pub(crate) fn parse(mut self) -> Result<Message, WireError> {
        let tag = self.tag;
        let message = Message::parse(&mut self.bytes)
            .map_err(|error| WireError::protocol(format!("{}: {error}", name_of(tag))))?;
        message.ok_or_else(|| WireError::protocol(format!("{}: too short", name_of(tag))))
    }

    /// Says that this message may not come here.
    pub(crate) fn unexpected(&self, doing: &str) -> WireError {
        WireError::protocol(format!("{} while {doing}", name_of(self.tag)))
    }
}

fn name_of(tag: u8) -> String {
    format!("message '{}'", tag.escape_ascii())
}

/// Refuses a length that no PostgreSQL server would announce, once `logged_in` or before.
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
    /// A conversation that has not begun. Messages are limited to [`LOGIN_MESSAGE_BYTES_MAX`] until [`Self::logged_in`].
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

    /// Lifts the limit on messages, as far as each kind needs it: the server has shown who it is.
    pub(crate) fn logged_in(&mut self) {
        self.logged_in = true;
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The encoding of the database, when the server has reported it.
    pub(crate) fn server_encoding(&self) -> Option<&str> {
        self.server_encoding.as_deref()
    }

    /// The search path of the session, when the server has reported it.
    pub(crate) fn search_path(&self) -> Option<&str> {
        self.search_path.as_deref()
    }

    /// When bytes last came from the server.
    pub(crate) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Whether everything queued has been handed to the operating system.
    pub(crate) fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// The buffer to append frames to; they are written by whoever waits next.
    pub(crate) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Writes as much of what is queued as the socket takes at once. Never waits.
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

    /// The next message, after dealing with those that may come at any time; an ErrorResponse is [`WireError::Server`].
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

    /// The next message if it has arrived already. No system call.
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
                        tracing::debug!(notice = %ServerError::from_fields(body.fields()), "PostgreSQL says");
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

    /// Tag and whole length of the message that the input begins with, or an error when it is longer than may be.
    fn announced(&self) -> Result<Option<(u8, usize)>, WireError> {
        let header = Header::parse(&self.input).map_err(|error| WireError::protocol(error.to_string()))?;
        let Some(header) = header else { return Ok(None) };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        check_length(header.tag(), length, self.logged_in)?;
        Ok(Some((header.tag(), length + 1)))
    }

    /// Writes what can be written, and reads once.
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

    /// Room for the next read. A long message gets it by doubling what has really come, so that announcing a length
    /// costs a liar as many bytes as it costs us.
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
            // What is left of a block counts: a block whose other frames are all done with is then used again, not doubled.
            let rest_of_block = BLOCK_BYTES.saturating_sub(filled).max(ROOM_BYTES_MIN);
            self.input.reserve(rest_of_block.max(missing.min(filled)));
        }
        Ok(())
    }

    /// Writes what can be written.
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
        // TLS has a buffer of its own.
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
            // As long as a message may be, but only its beginning ever comes.
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
