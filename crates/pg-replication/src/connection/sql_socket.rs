//! What lies between a [`Socket`] and tokio-postgres: it looks at what a server says before tokio-postgres believes it.

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

/// Tag, length and code of an authentication message.
const REQUEST_BYTES: usize = TAG_AND_LENGTH + 4;

/// The socket as tokio-postgres sees it: TLS is done, and its channel binding is known.
///
/// tokio-postgres would log in by any method, and give a password in clear text or as an MD5 hash to anybody who asks. It acts on
/// such a request only when that is the first message, so looking at the first nine bytes is enough to refuse.
///
/// It would also set aside whatever length a server announces, and wait for that much: at a port that speaks another
/// protocol, more than a gigabyte. And it keeps what a server likes to say. So [`Limits`] are looked at, too.
pub(crate) struct SqlSocket {
    socket: Socket,
    methods: LoginMethods,
    /// The first bytes of the server, until they are enough; `None` from then on.
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

/// Passes the socket on: there is nothing left to negotiate.
pub(crate) struct Negotiated;

impl TlsConnect<SqlSocket> for Negotiated {
    type Stream = SqlSocket;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<SqlSocket>>;

    fn connect(self, socket: SqlSocket) -> Self::Future {
        std::future::ready(Ok(socket))
    }
}
