//! Socket for tokio-postgres that checks what a server sends before tokio-postgres acts on it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use postgres_protocol::message::backend::AUTHENTICATION_TAG;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::{
    login_methods::LoginMethods, socket::Socket, sql_limits::Limits, wire::TAG_AND_LENGTH,
    wire_error::WireError,
};

/// Bytes of an authentication message's tag, length and code.
const REQUEST_BYTES: usize = TAG_AND_LENGTH + 4;

/// Socket as tokio-postgres sees it: with TLS done and the channel binding known.
///
/// tokio-postgres logs in by any method, and would give a clear-text password or an MD5 hash to any server that asks.
/// It acts on such a request only in the first message, so the first nine bytes suffice to refuse it.
///
/// tokio-postgres also reserves memory for any announced length, more than a gigabyte at a port of another protocol,
/// and keeps whatever a server reports. [`Limits`] end both.
pub(crate) struct SqlSocket {
    socket: Socket,
    methods: LoginMethods,
    /// The server's first bytes. `None` once they have been checked.
    first: Option<Vec<u8>>,
    limits: Limits,
}

impl SqlSocket {
    pub(crate) fn new(socket: Socket, methods: LoginMethods) -> Self {
        SqlSocket { socket, methods, first: Some(Vec::new()), limits: Limits::default() }
    }

    fn watch(&mut self, received: &[u8]) -> io::Result<()> {
        let Some(first) = &mut self.first else { return Ok(()) };
        let missing = REQUEST_BYTES.saturating_sub(first.len());
        first.extend_from_slice(&received[..received.len().min(missing)]);
        if first.first().is_some_and(|tag| *tag != AUTHENTICATION_TAG) {
            self.first = None;
            return Ok(());
        }
        let Some((_, code)) = first.split_first_chunk::<TAG_AND_LENGTH>() else { return Ok(()) };
        let Some(code) = code.first_chunk().map(|code| i32::from_be_bytes(*code)) else { return Ok(()) };
        self.first = None;
        self.methods
            .check(code, self.socket.peer())
            .map_err(|refusal| io::Error::other(WireError::from(refusal)))
    }
}

impl AsyncRead for SqlSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        let received = &buffer.filled()[before..];
        if self.first.is_some() {
            self.watch(received)?;
        }
        Poll::Ready(self.limits.follow(received).map_err(io::Error::other))
    }
}

impl AsyncWrite for SqlSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl TlsStream for SqlSocket {
    fn channel_binding(&self) -> ChannelBinding {
        match self.socket.server_end_point() {
            Some(hash) => ChannelBinding::tls_server_end_point(hash),
            None => ChannelBinding::none(),
        }
    }
}

/// TLS connector that returns the socket unchanged, because TLS is already negotiated.
pub(crate) struct Negotiated;

impl TlsConnect<SqlSocket> for Negotiated {
    type Stream = SqlSocket;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<SqlSocket>>;

    fn connect(self, socket: SqlSocket) -> Self::Future {
        std::future::ready(Ok(socket))
    }
}
