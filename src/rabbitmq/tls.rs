//! TLS for `amqps`: rustls with ring, the server's name always verified.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Certificates or key that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file is unreadable or no PEM.
    #[error("cannot read {what} from {}: {reason}; name a readable PEM file", path.display())]
    File {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The platform has no trusted certificates.
    #[error(
        "this machine has no trusted CA certificates; install the package ca-certificates or set rabbitmq.tls_ca_file"
    )]
    NoPlatformRoots,
    /// Certificate and key do not go together, or rustls cannot use them.
    #[error(
        "the client certificate and key cannot be used; they must belong together and be RSA, ECDSA or Ed25519"
    )]
    Identity(#[source] rustls::Error),
    /// rustls refuses the set-up as a whole.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// How TLS is done. With `ca_file` only its CAs are trusted, otherwise the platform's.
pub(super) fn client_config(
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
            let chain = certificates("a client certificate", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unusable("a private key", key, error.to_string()))?;
            builder.with_client_auth_cert(chain, key).map_err(CertificateError::Identity)?
        }
    })
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, CertificateError> {
    let mut store = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates("CA certificates", path)? {
                store
                    .add(certificate)
                    .map_err(|error| unusable("CA certificates", path, error.to_string()))?;
            }
        }
        None => {
            // A platform's store may hold certificates that rustls cannot parse; only an empty one is of no use.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(CertificateError::NoPlatformRoots);
            }
        }
    }
    Ok(store)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(what, path, error.to_string()))?;
    match certificates.is_empty() {
        true => Err(unusable(what, path, "it holds no certificate".to_owned())),
        false => Ok(certificates),
    }
}

fn unusable(what: &'static str, path: &Path, reason: String) -> CertificateError {
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
