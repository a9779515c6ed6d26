//! Connection options: brokers to try, and how to connect. Does not know what a connection is used for.

use std::{fmt, path::PathBuf, time::Duration};

use rustls::ClientConfig;

use super::{endpoint::Endpoint, rotating_urls::RotatingUrls, tls};
use crate::error::BrokerError;

/// Brokers and how to connect to them. `Debug` hides users and passwords.
#[derive(Clone)]
pub struct ConnectionOptions {
    /// Program that connects.
    pub client: Client,
    /// URLs (`amqp://` or `amqps://`, with password), tried in turn from a different one at each attempt.
    pub urls: Vec<String>,
    /// URLs from files, which take precedence over `urls`.
    pub rotating: Option<RotatingUrls>,
    /// Heartbeat interval, rounded up to whole seconds. A shorter one of the broker applies. A peer that is silent
    /// for two intervals is given up. A URL's `heartbeat` takes precedence.
    pub heartbeat: Duration,
    /// Limit for TCP, TLS, login and virtual host together, for each URL.
    pub connect_timeout: Duration,
    /// PEM file with the CA certificates that `amqps` trusts; without it the platform's.
    pub ca_file: Option<PathBuf>,
    /// PEM client certificate (with its chain) and PEM key (PKCS#8, PKCS#1 or SEC1, not encrypted).
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

/// Program that connects. RabbitMQ's management shows it beside the connection's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Client property `product`.
    pub product: &'static str,
    /// Client property `version`.
    pub version: &'static str,
}

impl fmt::Debug for ConnectionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self
            .urls
            .iter()
            .map(|url| {
                Endpoint::parse(url, self.heartbeat).map_or("(no AMQP URL)".to_owned(), |at| at.to_string())
            })
            .collect();
        f.debug_struct("ConnectionOptions")
            .field("client", &self.client)
            .field("urls", &shown)
            .field("heartbeat", &self.heartbeat)
            .field("connect_timeout", &self.connect_timeout)
            .field("ca_file", &self.ca_file)
            .field("client_cert", &self.client_cert)
            .finish_non_exhaustive()
    }
}

impl ConnectionOptions {
    /// Returns all URLs, parsed.
    ///
    /// # Errors
    ///
    /// [`BrokerError::NoUrl`], [`BrokerError::InvalidUrl`], or [`BrokerError::Secret`] for a file that cannot be
    /// read. No error repeats a URL.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, BrokerError> {
        if self.urls.is_empty() {
            return Err(BrokerError::NoUrl);
        }
        let urls = match &self.rotating {
            Some(rotating) => &rotating.read()?,
            None => &self.urls,
        };
        let endpoints: Result<Vec<_>, _> =
            urls.iter().map(|url| Endpoint::parse(url, self.heartbeat)).collect();
        Ok(endpoints?)
    }

    /// Returns the files with URLs or the password, which are read for every connection.
    pub fn files(&self) -> Vec<String> {
        self.rotating.iter().flat_map(RotatingUrls::files).collect()
    }

    /// Returns the files that suffice to log in: [`Self::files`] and the client's key.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        let key = self.client_cert.as_ref().map(|(_, key)| key.clone());
        self.files().into_iter().map(PathBuf::from).chain(key).collect()
    }

    /// Returns the hosts that get user, password and messages unencrypted, without this machine.
    pub fn unencrypted_hosts(&self) -> Vec<String> {
        let endpoints = self.endpoints().unwrap_or_default();
        let unencrypted = endpoints.iter().filter(|at| !at.is_tls() && !at.is_local());
        unencrypted.map(|at| at.host().to_owned()).collect()
    }

    /// Returns the TLS configuration; `None` when no URL asks for TLS.
    ///
    /// # Errors
    ///
    /// As [`Self::endpoints`]; [`BrokerError::Certificates`] when a certificate or key cannot be used.
    pub fn tls_config(&self) -> Result<Option<ClientConfig>, BrokerError> {
        let config = self.endpoints()?.iter().any(Endpoint::is_tls).then(|| {
            let client_cert = self.client_cert.as_ref();
            tls::client_config(
                self.ca_file.as_deref(),
                client_cert.map(|(certificate, key)| (certificate.as_path(), key.as_path())),
            )
        });
        Ok(config.transpose()?)
    }
}
