//! Byte stream to a server: TCP or Unix socket, with TLS negotiated. SQL and replication connections share it, so the
//! rules of `sslmode` exist once.
//!
//! Knows SSLRequest and no other message of the protocol.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_postgres::Config;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    tls::{self, TlsMode, TlsOptions},
    wire_error::WireError,
};

/// An open byte stream to a server.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Unencrypted TCP.
    Tcp(TcpStream),
    /// Unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls {
        stream: Box<TlsStream<TcpStream>>,
        /// The server's certificate was verified, as `sslmode` asked.
        verified: bool,
    },
}

/// Identity of the other end, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process on this machine, reached by Unix socket.
    Local,
    /// The server named by a verified certificate, or one that the trusted authority vouches for.
    Verified,
    /// An unidentified server over TLS.
    Unverified,
    /// An unidentified server without encryption.
    Unencrypted,
}

impl Socket {
    /// Connects to a server's Unix socket. As in libpq, `sslmode` has no effect there.
    pub(crate) async fn open_unix(directory: &Path, port: u16) -> Result<Self, WireError> {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Socket::Unix(stream)),
            Err(source) => Err(WireError::Io { doing: "connecting to the Unix socket", source }),
        }
    }

    /// Connects over TCP and negotiates TLS by `tls`.
    pub(crate) async fn open_tcp(
        address: SocketAddr,
        server_name: &str,
        config: &Config,
        options: &TlsOptions,
    ) -> Result<Self, WireError> {
        let io = |source| WireError::Io { doing: "connecting", source };
        let stream = TcpStream::connect(address).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        keep_alive(&stream, config).map_err(io)?;
        match options.client_config()? {
            None => Ok(Socket::Tcp(stream)),
            Some(tls) => negotiate(stream, server_name, tls, options).await,
        }
    }

    /// Returns the identity of the other end.
    pub(crate) fn peer(&self) -> Peer {
        match self {
            Socket::Unix(_) => Peer::Local,
            Socket::Tls { verified: true, .. } => Peer::Verified,
            Socket::Tls { verified: false, .. } => Peer::Unverified,
            Socket::Tcp(_) => Peer::Unencrypted,
        }
    }

    /// Tells whether the stream is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Socket::Tls { .. })
    }

    /// Returns the hash that SCRAM-SHA-256-PLUS binds to. `None` without TLS, or when the server's certificate allows
    /// none.
    pub(crate) fn server_end_point(&self) -> Option<Vec<u8>> {
        match self {
            Socket::Tls { stream, .. } => {
                let (_, session) = stream.get_ref();
                tls::server_end_point(session.peer_certificates()?.first()?)
            }
            _ => None,
        }
    }
}

/// Sets the limits that detect a half-open connection: keepalive probes while nothing is sent, `TCP_USER_TIMEOUT`
/// while sent data is unacknowledged.
fn keep_alive(stream: &TcpStream, config: &Config) -> io::Result<()> {
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(config.get_tcp_user_timeout().copied())?;
    if !config.get_keepalives() {
        return Ok(());
    }
    let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
    if let Some(interval) = config.get_keepalives_interval() {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        keepalive = keepalive.with_retries(retries);
    }
    socket.set_tcp_keepalive(&keepalive)
}

/// Sends SSLRequest and does the handshake (manual, "SSL Session Encryption").
async fn negotiate(
    mut stream: TcpStream,
    server_name: &str,
    config: Arc<ClientConfig>,
    options: &TlsOptions,
) -> Result<Socket, WireError> {
    if !options.direct {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        let io = |source| WireError::from_io("asking for TLS", source);
        stream.write_all(&request).await.map_err(io)?;
        // Reads exactly one byte. Bytes that an attacker injects behind it reach the TLS handshake and break it.
        match stream.read_u8().await.map_err(io)? {
            b'S' => {}
            b'N' if options.mode == TlsMode::Prefer => return Ok(Socket::Tcp(stream)),
            b'N' => return Err(WireError::TlsNotOffered),
            // The error is not authenticated, so its text is not shown (as in libpq since 17.1).
            b'E' => return Err(WireError::protocol("the server answers the request for TLS with an error")),
            other => {
                return Err(WireError::protocol(format!(
                    "the server answers the request for TLS with byte 0x{other:02x}: is this a PostgreSQL port?"
                )));
            }
        }
    }
    let name = ServerName::try_from(server_name.to_owned()).map_err(|error| WireError::Tls {
        hint: "the host in the connection string is neither a DNS name nor an IP address",
        source: io::Error::other(error),
    })?;
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Ok(Socket::Tls { stream: Box::new(stream), verified: options.identifies_server() }),
        Err(source) => Err(WireError::from_io("the TLS handshake", source)),
    }
}

/// Forwards a call to the stream of the variant.
macro_rules! each {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket.get_mut() {
            Socket::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Socket::Unix($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Socket::Tls { stream: $stream, .. } => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }
}
