//! Stream for lapin with the broker's bytes that the [`Guard`] has passed.
//!
//! lapin uses the stream type of its runtime. So this runtime is tokio with another stream type.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use amqp_publisher::{connection::link::Stream, frame::not_amqp};
use async_rs::{
    Tokio,
    traits::{Executor, Reactor, RuntimeKit},
    util::Task,
};
use bytes::{Buf, BytesMut};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream as EventStream;
use tokio::io::AsyncReadExt;

use super::guard::Guard;

/// Least size of a read. The buffer grows with the current frame.
const READ_BYTES: usize = 16 << 10;

/// Connection to the broker as lapin sees it.
pub(super) struct Guarded {
    stream: Box<dyn Stream>,
    guard: Guard,
    input: BytesMut,
    passed: BytesMut,
    /// Violation by the broker, reported after the frames before it.
    broken: Option<String>,
}

impl Guarded {
    pub(super) fn new(stream: Box<dyn Stream>, guard: Guard) -> Self {
        Self { stream, guard, input: BytesMut::new(), passed: BytesMut::new(), broken: None }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { stream, guard, input, passed, broken } = self.get_mut();
        while passed.is_empty() {
            if let Some(text) = broken {
                return Poll::Ready(Err(not_amqp(text.as_str())));
            }
            if let Err(error) = guard.pass(input, passed) {
                *broken = Some(error.to_string());
            } else if passed.is_empty() {
                input.reserve(READ_BYTES);
                let reading = pin!(stream.read_buf(input));
                if ready!(reading.poll(cx))? == 0 {
                    return Poll::Ready(Ok(0));
                }
            }
        }
        let bytes = passed.len().min(out.len());
        out[..bytes].copy_from_slice(&passed[..bytes]);
        passed.advance(bytes);
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.stream), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.stream), cx)
    }
}

/// tokio with [`Guarded`] connections.
#[derive(Clone, Debug)]
pub(super) struct GuardedTokio(Tokio);

impl GuardedTokio {
    /// Returns the current runtime.
    pub(super) fn current() -> Self {
        Self(Tokio::current())
    }
}

impl RuntimeKit for GuardedTokio {}

impl Executor for GuardedTokio {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

/// lapin uses only the timers: its connection is made by the caller.
impl Reactor for GuardedTokio {
    type TcpStream = Guarded;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Guarded, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl EventStream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
