//! Certificates and private keys in PEM files.
//!
//! Knows the format of the files. Does not know TLS, or the use of certificates.

use std::path::Path;

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{Error, PemObject},
};

/// Error of a PEM file. Displayed as the problem and its cure, to follow the name of the file.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct PemError {
    /// The problem and its cure.
    pub problem: &'static str,
    /// The underlying error.
    pub source: Error,
}

impl PemError {
    fn new(source: Error, missing: &'static str, malformed: &'static str) -> Self {
        let problem = match &source {
            Error::Io(_) => {
                "the file cannot be read: check that it exists and that this program's user may read it"
            }
            Error::NoItemsFound => missing,
            _ => malformed,
        };
        Self { problem, source }
    }
}

/// Reads the certificates of a file, in order, at least one.
///
/// # Errors
///
/// [`PemError`] when the file cannot be read, holds no certificate, or is damaged.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.and_then(|found| if found.is_empty() { Err(Error::NoItemsFound) } else { Ok(found) });
    found.map_err(|error| {
        let missing = "there is no PEM block BEGIN CERTIFICATE in it";
        PemError::new(error, missing, "the file must hold certificates in PEM form")
    })
}

/// Reads the first private key of a file: PKCS#8, PKCS#1 or SEC1, not encrypted.
///
/// # Errors
///
/// [`PemError`] when the file cannot be read, holds no such key, or is damaged.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        let missing =
            "there is no PEM block of a private key in it: an encrypted key must be decrypted first";
        PemError::new(error, missing, "the file must hold one unencrypted private key in PEM form")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_unusable_file_has_its_own_problem() {
        let directory = tempfile::tempdir().unwrap();
        for (content, of_certificates, of_key) in [
            (None, "cannot be read", "cannot be read"),
            (Some("no block in here\n"), "no PEM block BEGIN CERTIFICATE", "no PEM block of a private key"),
            (
                Some("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"),
                "no PEM block BEGIN CERTIFICATE",
                "must be decrypted first",
            ),
            (
                Some("-----BEGIN CERTIFICATE-----\nAAAA\n"),
                "must hold certificates",
                "unencrypted private key",
            ),
        ] {
            let path = directory.path().join("file.pem");
            match content {
                Some(content) => std::fs::write(&path, content).unwrap(),
                None => assert!(!path.exists()),
            }
            let found = certificates(&path).unwrap_err().to_string();
            assert!(found.contains(of_certificates), "{content:?}: {found}");
            let found = private_key(&path).unwrap_err().to_string();
            assert!(found.contains(of_key), "{content:?}: {found}");
        }
    }
}
