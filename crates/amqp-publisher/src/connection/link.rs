//! Link: AMQP frames and heartbeats over a socket (AMQP 0-9-1 specification, 2.3.5 and 4.2.7).
//!
//! Does not know what methods mean. One function reads and writes: a caller that waits for the broker also writes all
//! that is queued. Dropping a future of this module loses nothing.

use std::{
    io, mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use amq_protocol::{
    frame::{AMQPFrame, gen_frame, parsing::parse_frame},
    protocol::AMQPClass,
};
use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Instant, Sleep, sleep_until},
};

use crate::frame::{self, DELIVER, FRAME_OVERHEAD_BYTES, Unreadable, Walk};

/// Byte stream below a link: TCP, or TLS over TCP.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A frame of type 8 on channel 0 without payload.
const HEARTBEAT: [u8; FRAME_OVERHEAD_BYTES] = [8, 0, 0, 0, 0, 0, 0, 0xCE];
/// Longest frame before both sides have agreed on a limit. The broker's first frame lists its capabilities.
const FRAME_BYTES_MAX: usize = 128 << 10;
/// Reads without a frame for the caller before other tasks get a turn, so that a broker that never pauses blocks
/// none.
const READS_AT_ONCE: usize = 16;
/// Size of one read. A confirm takes 21 bytes, so a read holds many.
const READ_BYTES: usize = 16 << 10;
/// Capacity above which the empty output buffer is released, after a burst has grown it.
const OUTPUT_BYTES_KEPT: usize = 256 << 10;

/// Frame that concerns a publisher.
#[derive(Debug)]
pub(crate) enum Frame {
    /// A method on a channel.
    Method(u16, AMQPClass),
    /// Unparsed content header of an incoming message; `None` when it exceeds the frame limit.
    Header(u16, Option<BytesMut>),
}

/// A broker, as a sequence of frames in each direction.
pub(crate) struct Link {
    stream: Box<dyn Stream>,
    input: BytesMut,
    walk: Walk,
    output: Vec<u8>,
    /// Bytes of `output` that are written.
    written: usize,
    heartbeat: Option<Heartbeat>,
    last_heard: Instant,
    last_said: Instant,
}

/// Heartbeat: both sides send at least one frame in this interval, and give the other up after two intervals of
/// silence (4.2.7).
struct Heartbeat {
    interval: Duration,
    /// Time of the next check. Moves when it fires, not with every frame.
    look: Pin<Box<Sleep>>,
}

impl Link {
    pub(crate) fn new(stream: Box<dyn Stream>) -> Self {
        let now = Instant::now();
        Self {
            stream,
            input: BytesMut::new(),
            walk: Walk::new(FRAME_BYTES_MAX),
            output: Vec::new(),
            written: 0,
            heartbeat: None,
            last_heard: now,
            last_said: now,
        }
    }

    /// Sets the agreed limits. `interval` zero turns heartbeats off.
    pub(crate) fn tuned(&mut self, frame_bytes_max: usize, interval: Duration) {
        self.walk.limit(frame_bytes_max);
        self.heartbeat = (!interval.is_zero())
            .then(|| Heartbeat { interval, look: Box::pin(sleep_until(Instant::now() + interval / 2)) });
    }

    /// Returns the heartbeat interval, if heartbeats are on.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        self.heartbeat.as_ref().map(|heartbeat| heartbeat.interval)
    }

    /// Returns the largest frame that may be sent, including its overhead.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        self.walk.frame_bytes_max()
    }

    /// Returns the buffer for whole outgoing frames. The next call that waits writes them.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Appends a frame.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the frame cannot be encoded, for example because a table exceeds its length field. Queued
    /// frames are lost, too.
    pub(crate) fn put(&mut self, frame: &AMQPFrame) -> io::Result<()> {
        match gen_frame(frame)(mem::take(&mut self.output).into()) {
            Ok(written) => {
                self.output = written.into_inner().0;
                Ok(())
            }
            Err(error) => Err(io::Error::other(format!("a frame cannot be written: {error:?}"))),
        }
    }

    /// Returns the next frame, handles heartbeats, and writes what is queued.
    ///
    /// Skips `basic.deliver` and bodies, because anybody may publish into a consumed queue. The properties of
    /// returned messages are kept.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the connection is lost, the broker is silent for two heartbeats, or the bytes are not AMQP.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Frame>> {
        for _ in 0..READS_AT_ONCE {
            if let Some(frame) = self.next_frame()? {
                return Poll::Ready(Ok(frame));
            }
            // A write error is reported after reading: the broker's last frame tells more.
            let unwritable = match self.poll_flush(cx) {
                Poll::Ready(Err(error)) => Some(error),
                Poll::Ready(Ok(())) | Poll::Pending => None,
            };
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            if let Some(error) = unwritable {
                return Poll::Ready(Err(error));
            }
            // Checked after reading: a process that was stopped finds what arrived meanwhile, and must not take the
            // pause for silence.
            if !self.keep_alive(cx)? {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes all queued bytes.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output[self.written..])? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(bytes) => {
                    self.written += bytes;
                    self.last_said = Instant::now();
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.written > 0 {
            self.written = 0;
            self.output.clear();
            if self.output.capacity() > OUTPUT_BYTES_KEPT {
                self.output = Vec::new();
            }
        }
        // TLS buffers, too.
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.reserve(READ_BYTES);
        let reading = pin!(self.stream.read_buf(&mut self.input));
        Poll::Ready(match ready!(reading.poll(cx))? {
            0 => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => {
                self.last_heard = Instant::now();
                Ok(())
            }
        })
    }

    /// Returns the next frame for the caller, if it has arrived.
    fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        while let Some(walked) = self.walk.next(&mut self.input)? {
            let (head, payload) = (walked.head, walked.payload()?);
            match head.kind {
                frame::METHOD if frame::method_of(payload) == Some(DELIVER) => {}
                frame::METHOD => {
                    frame::check(head.kind, payload).map_err(|why| head.unreadable(&why))?;
                    return match parse_frame(&walked.bytes[..]) {
                        Ok((_, AMQPFrame::Method(channel, method))) => {
                            Ok(Some(Frame::Method(channel, method)))
                        }
                        _ => Err(head.unreadable(&Unreadable::Malformed("method"))),
                    };
                }
                frame::HEADER if walked.is_whole() => {
                    return Ok(Some(Frame::Header(head.channel, Some(walked.into_payload()?))));
                }
                frame::HEADER => return Ok(Some(Frame::Header(head.channel, None))),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Sends heartbeats, and detects a silent broker. Returns whether a heartbeat is queued.
    fn keep_alive(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Some(heartbeat) = &mut self.heartbeat else { return Ok(false) };
        let mut is_due = false;
        while heartbeat.look.as_mut().poll(cx).is_ready() {
            let (now, interval) = (Instant::now(), heartbeat.interval);
            heartbeat.look.as_mut().reset(now + interval / 2);
            let silent = now.saturating_duration_since(self.last_heard);
            if silent > 2 * interval {
                let text = format!("nothing heard for {:.1} s, not even a heartbeat", silent.as_secs_f32());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            is_due = now.saturating_duration_since(self.last_said) >= interval / 2;
        }
        // While the socket accepts nothing, the queued bytes replace a heartbeat.
        let says = is_due && self.output.is_empty();
        if says {
            self.output.extend_from_slice(&HEARTBEAT);
        }
        Ok(says)
    }
}
