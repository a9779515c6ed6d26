//! TLS for `amqps`: rustls with ring. The server's name is always verified.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore};

use secret::pem::{self, PemError};

/// Error of certificates or keys.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file is unreadable, or does not hold the expected content.
    #[error("{what} in {}: {reason}", path.display())]
    File {
        /// The expected content.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The problem and its cure.
        reason: String,
    },
    /// The platform has no trusted CA certificates.
    #[error("this machine has no trusted CA certificates")]
    NoPlatformRoots,
    /// Certificate and key do not match, or rustls does not support them.
    #[error("the client certificate and key cannot be used")]
    Identity(#[source] rustls::Error),
    /// rustls refuses the configuration.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

impl CertificateError {
    /// Returns the next step.
    pub fn cure(&self) -> Option<&'static str> {
        match self {
            Self::File { .. } => Some("correct the file, or name another"),
            Self::NoPlatformRoots => Some("install the package ca-certificates"),
            Self::Identity(_) => Some("they must belong together and be RSA, ECDSA or Ed25519"),
            Self::Setup(_) => None,
        }
    }
}

/// Returns the TLS configuration. With `ca_file` only its CAs are trusted, otherwise the platform's.
pub(crate) fn client_config(
    ca_file: Option<&Path>,
    client_cert: Option<(&Path, &Path)>,
) -> Result<ClientConfig, CertificateError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(CertificateError::Setup)?
        .with_root_certificates(roots(ca_file)?);
    Ok(match client_cert {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = pem::certificates(certificate)
                .map_err(|error| unusable("client certificate", certificate, error))?;
            let key = pem::private_key(key).map_err(|error| unusable("private key", key, error))?;
            builder.with_client_auth_cert(chain, key).map_err(CertificateError::Identity)?
        }
    })
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, CertificateError> {
    let mut store = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let certificates =
                pem::certificates(path).map_err(|error| unusable("CA certificates", path, error))?;
            for certificate in certificates {
                store.add(certificate).map_err(|error| CertificateError::File {
                    what: "CA certificates",
                    path: path.to_owned(),
                    reason: format!("a certificate in it is damaged: put the authority's certificate there again ({error})"),
                })?;
            }
        }
        None => {
            // A platform's store may hold certificates that rustls cannot parse. Only a store without any usable one
            // is an error.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(CertificateError::NoPlatformRoots);
            }
        }
    }
    Ok(store)
}

fn unusable(what: &'static str, path: &Path, error: PemError) -> CertificateError {
    let reason = format!("{error} ({})", error.source);
    CertificateError::File { what, path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_unusable_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "no certificate in here\n").unwrap();
        for path in [empty.as_path(), Path::new("/nonexistent/ca.pem")] {
            let error = client_config(Some(path), None).err().unwrap().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
