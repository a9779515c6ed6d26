//! Frames over a socket: AMQP's framing and heartbeats (AMQP 0-9-1 specification, 2.3.5 and 4.2.7), and nothing of what methods
//! mean.
//!
//! Reading and writing are one pump: whoever waits for the broker also writes what is queued, as much at a time as there is.
//! Dropping a future of this module loses nothing.

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

/// Stream that a link runs over: TCP, or TLS over it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A frame of type 8 on channel 0 without payload.
const HEARTBEAT: [u8; FRAME_OVERHEAD_BYTES] = [8, 0, 0, 0, 0, 0, 0, 0xCE];
/// No frame is longer before the two sides have agreed on less; the broker's first one lists what it can.
const FRAME_BYTES_MAX: usize = 128 << 10;
/// Reads without a frame of interest before everybody else has a turn, so that a broker that never pauses stops nobody.
const READS_AT_ONCE: usize = 16;
/// One read. A confirm takes 21 bytes, and many share one.
const READ_BYTES: usize = 16 << 10;
/// A burst that made the output longer is over: it is given back as soon as it is empty.
const OUTPUT_BYTES_KEPT: usize = 256 << 10;

/// Word of the broker to a publisher.
#[derive(Debug)]
pub(crate) enum Frame {
    /// A method, on a channel.
    Method(u16, AMQPClass),
    /// The content header of a message that comes on a channel, not parsed; `None` when it is longer than a frame may be.
    Header(u16, Option<BytesMut>),
}

/// The broker, as a sequence of frames each way.
pub(crate) struct Link {
    stream: Box<dyn Stream>,
    input: BytesMut,
    walk: Walk,
    output: Vec<u8>,
    /// So much of `output` is written.
    written: usize,
    heartbeat: Option<Heartbeat>,
    last_heard: Instant,
    last_said: Instant,
}

/// Both sides say something at least this often, or are given up after two such times (4.2.7).
struct Heartbeat {
    interval: Duration,
    /// When to look whether that is so. Moves when it fires, not with every frame.
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

    /// Sets what the two sides agreed on; no heartbeat when `interval` is zero.
    pub(crate) fn tuned(&mut self, frame_bytes_max: usize, interval: Duration) {
        self.walk.limit(frame_bytes_max);
        self.heartbeat = (!interval.is_zero())
            .then(|| Heartbeat { interval, look: Box::pin(sleep_until(Instant::now() + interval / 2)) });
    }

    /// Interval of heartbeats, if there are any.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        self.heartbeat.as_ref().map(|heartbeat| heartbeat.interval)
    }

    /// The largest frame that may be sent, its overhead included.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        self.walk.frame_bytes_max()
    }

    /// The buffer to append whole frames to; they are written by whoever waits next.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Appends a frame.
    ///
    /// # Errors
    ///
    /// The frame cannot be written down, as when a table is longer than its length field can say; what was queued is gone, too.
    pub(crate) fn put(&mut self, frame: &AMQPFrame) -> io::Result<()> {
        match gen_frame(frame)(mem::take(&mut self.output).into()) {
            Ok(written) => {
                self.output = written.into_inner().0;
                Ok(())
            }
            Err(error) => Err(io::Error::other(format!("a frame cannot be written: {error:?}"))),
        }
    }

    /// The next frame; writes what is queued. A heartbeat is dealt with here.
    ///
    /// Messages are of no interest, but for the properties of those that come back: anybody may publish into a queue that is consumed
    /// from here, whatever he likes. So `basic.deliver` and bodies are passed over unread.
    ///
    /// # Errors
    ///
    /// The connection is lost, the broker is silent for two heartbeats, or what comes is not AMQP.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Frame>> {
        for _ in 0..READS_AT_ONCE {
            if let Some(frame) = self.next_frame()? {
                return Poll::Ready(Ok(frame));
            }
            // Not before reading: what the broker said last tells more than that it takes nothing any more.
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
            // Only now: whoever was stopped for a while finds what came meanwhile, and must not take it for silence.
            if !self.keep_alive(cx)? {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes all that is queued.
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
        // TLS has a buffer of its own.
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

    /// The next frame of interest, if it is there.
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

    /// Says that we are here, and notices when the broker is not. Tells whether there is a heartbeat to be sent.
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
        // While the broker takes nothing, what waits for it is sign of life enough.
        let says = is_due && self.output.is_empty();
        if says {
            self.output.extend_from_slice(&HEARTBEAT);
        }
        Ok(says)
    }
}
