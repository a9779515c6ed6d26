//! Byte stream to an endpoint: TCP, with TLS if the URL asks for it.

use std::{io, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{endpoint::Endpoint, link::Stream};
use crate::error::BrokerError;

/// Connects, with TLS if `at` asks for it.
pub(crate) async fn dial(
    at: &Endpoint,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Box<dyn Stream>, BrokerError> {
    secured(at, tls, tcp(at).await?).await
}

/// Opens a TCP connection.
///
/// # Errors
///
/// [`BrokerError::Unreachable`].
pub async fn tcp(at: &Endpoint) -> Result<TcpStream, BrokerError> {
    let unreachable = |error: io::Error| BrokerError::Unreachable { at: at.clone(), source: error.into() };
    let stream = TcpStream::connect((at.host(), at.port())).await.map_err(unreachable)?;
    // Batches are written at once. Without Nagle's algorithm the rest of a batch does not wait for an
    // acknowledgement.
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

/// Does the TLS handshake on a connection, if `at` asks for TLS.
///
/// # Errors
///
/// [`BrokerError::Tls`] when the handshake fails or the certificate is not trusted.
pub async fn secured(
    at: &Endpoint,
    tls: Option<&Arc<ClientConfig>>,
    stream: TcpStream,
) -> Result<Box<dyn Stream>, BrokerError> {
    let Some(tls) = tls.filter(|_| at.is_tls()) else { return Ok(Box::new(stream)) };
    let failed = |error: io::Error| BrokerError::Tls { at: at.clone(), source: error.into() };
    let name = ServerName::try_from(at.host().to_owned()).map_err(|error| failed(io::Error::other(error)))?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(failed)?;
    Ok(Box::new(stream))
}
