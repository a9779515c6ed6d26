//! TLS: `sslmode` and its related options as a rustls configuration, and a session's channel binding.
//!
//! Knows certificates, but neither sockets nor the PostgreSQL protocol. The crypto provider is set explicitly, so
//! that other users of rustls in the process cannot change it.

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
    version::{TLS12, TLS13},
};
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use x509_cert::{
    Certificate,
    der::{
        Decode,
        oid::db::rfc5912::{
            ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ECDSA_WITH_SHA_512, MD_5_WITH_RSA_ENCRYPTION,
            SHA_1_WITH_RSA_ENCRYPTION, SHA_256_WITH_RSA_ENCRYPTION, SHA_384_WITH_RSA_ENCRYPTION,
            SHA_512_WITH_RSA_ENCRYPTION,
        },
    },
};

use super::endpoint_error::EndpointError;
use secret::pem::{self, PemError};

/// `sslmode` (manual, "SSL Mode Descriptions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsMode {
    /// No TLS.
    Disable,
    /// No TLS, unless the server refuses an unencrypted login. Nothing is verified.
    Allow,
    /// TLS when the server offers it; no TLS when the server refuses an encrypted login. Nothing is verified.
    Prefer,
    /// TLS. Nothing is verified.
    Require,
    /// TLS with a certificate of a trusted authority, whatever name it bears.
    VerifyCa,
    /// TLS with a certificate of a trusted authority that bears the host's name.
    VerifyFull,
}

impl TlsMode {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "disable" => TlsMode::Disable,
            "allow" => TlsMode::Allow,
            "prefer" => TlsMode::Prefer,
            "require" => TlsMode::Require,
            "verify-ca" => TlsMode::VerifyCa,
            "verify-full" => TlsMode::VerifyFull,
            _ => return None,
        })
    }

    /// Returns the modes to try in order, each after `pg_hba.conf` has refused the one before.
    pub(crate) fn attempts(self) -> &'static [TlsMode] {
        match self {
            TlsMode::Disable => &[TlsMode::Disable],
            TlsMode::Allow => &[TlsMode::Disable, TlsMode::Require],
            TlsMode::Prefer => &[TlsMode::Prefer, TlsMode::Disable],
            TlsMode::Require => &[TlsMode::Require],
            TlsMode::VerifyCa => &[TlsMode::VerifyCa],
            TlsMode::VerifyFull => &[TlsMode::VerifyFull],
        }
    }
}

/// TLS versions between `ssl_min_protocol_version` and `ssl_max_protocol_version` that rustls supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsVersions {
    /// TLS 1.2 and 1.3.
    Both,
    /// TLS 1.2.
    Only12,
    /// TLS 1.3.
    Only13,
}

static BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

impl TlsVersions {
    fn of_rustls(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            TlsVersions::Both => &BOTH,
            TlsVersions::Only12 => &BOTH[..1],
            TlsVersions::Only13 => &BOTH[1..],
        }
    }
}

/// `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// `system`.
    Platform,
    /// A PEM file with one or more certificates.
    File(PathBuf),
}

/// TLS options of a connection string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsOptions {
    pub(crate) mode: TlsMode,
    /// Trusted roots. `None`: the platform's.
    pub(crate) roots: Option<Roots>,
    /// `sslcert` and `sslkey`.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    /// `sslnegotiation=direct`: the handshake begins without SSLRequest (PostgreSQL 17 and later).
    pub(crate) direct: bool,
    /// `sslsni`: the handshake names the host in clear text.
    pub(crate) names_server: bool,
    pub(crate) versions: TlsVersions,
}

impl TlsOptions {
    /// Tells whether a successful handshake identifies the server. A public authority without a checked name does
    /// not.
    pub(crate) fn identifies_server(&self) -> bool {
        match self.mode {
            TlsMode::VerifyFull => true,
            TlsMode::VerifyCa => matches!(self.roots, Some(Roots::File(_))),
            TlsMode::Disable | TlsMode::Allow | TlsMode::Prefer | TlsMode::Require => false,
        }
    }

    /// Reads the files and builds the rustls configuration. `None`: TLS is disabled.
    pub(crate) fn client_config(&self) -> Result<Option<Arc<ClientConfig>>, EndpointError> {
        let name_checked = match self.mode {
            TlsMode::Disable => return Ok(None),
            TlsMode::Allow | TlsMode::Prefer | TlsMode::Require => None,
            TlsMode::VerifyCa => Some(false),
            TlsMode::VerifyFull => Some(true),
        };
        let trust = name_checked.map(|name_checked| self.trust(name_checked)).transpose()?;
        let provider = Arc::new(ring::default_provider());
        let verifier = Verifier { trust, algorithms: provider.signature_verification_algorithms };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions.of_rustls())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = pem::certificates(certificate)
                    .map_err(|error| file_error("sslcert", certificate, error))?;
                let private = pem::private_key(key).map_err(|error| file_error("sslkey", key, error))?;
                builder.with_client_auth_cert(chain, private).map_err(|error| EndpointError::File {
                    option: "sslkey",
                    path: key.clone(),
                    problem: "the key cannot be used, or is not that of the certificate in sslcert",
                    source: error.into(),
                })?
            }
        };
        config.enable_sni = self.names_server;
        if self.direct {
            // Servers refuse a direct handshake without this ALPN (manual, "SSL Session Encryption").
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Some(Arc::new(config)))
    }

    fn trust(&self, name_checked: bool) -> Result<Trust, EndpointError> {
        let mut roots = RootCertStore::empty();
        let mut exactly = Vec::new();
        match &self.roots {
            None | Some(Roots::Platform) => {
                // A single unreadable root among the platform's is ignored; a platform without any root is an error.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(EndpointError::NoPlatformRoots);
                }
            }
            Some(Roots::File(path)) => {
                exactly = pem::certificates(path).map_err(|error| file_error("sslrootcert", path, error))?;
                for certificate in &exactly {
                    roots.add(certificate.clone()).map_err(|error| EndpointError::File {
                        option: "sslrootcert",
                        path: path.clone(),
                        problem: "a certificate in it is damaged: put the authority's certificate there again",
                        source: error.into(),
                    })?;
                }
            }
        }
        Ok(Trust { roots, exactly, name_checked })
    }
}

fn file_error(option: &'static str, path: &Path, error: PemError) -> EndpointError {
    let PemError { problem, source } = error;
    EndpointError::File { option, path: path.to_owned(), problem, source: source.into() }
}

/// Returns the next step after a failed handshake.
pub(crate) fn hint(error: &Error) -> &'static str {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the server's certificate is not issued by an authority in sslrootcert (without sslrootcert: by one that this machine trusts)"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            "the server's certificate does not bear the host's name as a subjectAltName (the common name does not count)"
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the server's certificate has expired"
        }
        Error::InvalidCertificate(_) => "the server's certificate cannot be accepted",
        Error::AlertReceived(_) => {
            "the server refused the client: check sslcert and sslkey, and the server's log"
        }
        _ => "check that the server speaks TLS 1.2 or 1.3 on this port",
    }
}

/// Certificates to trust.
#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    /// Certificates of the `sslrootcert` file. A server may present one of them as its own, as made by `openssl req
    /// -x509` in the manual. webpki refuses an authority as a server's certificate, so these are compared directly.
    exactly: Vec<CertificateDer<'static>>,
    name_checked: bool,
}

/// Verifier of the server's certificate by the rules of `sslmode`.
#[derive(Debug)]
struct Verifier {
    /// `None`: any certificate is accepted.
    trust: Option<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(trust) = &self.trust {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            if trust.exactly.contains(end_entity) {
                check_validity(end_entity, now)?;
            } else {
                verify_server_cert_signed_by_trust_anchor(
                    &certificate,
                    &trust.roots,
                    intermediates,
                    now,
                    self.algorithms.all,
                )?;
            }
            if trust.name_checked {
                verify_server_name(&certificate, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    // Checked even when any certificate is accepted: SCRAM's channel binding requires that the server holds the
    // certificate's key.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = Certificate::from_der(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let validity = parsed.tbs_certificate.validity;
    let now = now.as_secs();
    if now < validity.not_before.to_unix_duration().as_secs() {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if now > validity.not_after.to_unix_duration().as_secs() {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    Ok(())
}

/// Returns `tls-server-end-point` (RFC 5929, section 4.1): the certificate's hash under its signature's hash
/// function, with SHA-256 in place of MD5 and SHA-1. `None` for a signature without a single hash (Ed25519) or with
/// the hash in its parameters (RSA-PSS): there is no channel binding then.
pub(crate) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let algorithm = Certificate::from_der(certificate).ok()?.signature_algorithm.oid;
    match algorithm {
        MD_5_WITH_RSA_ENCRYPTION
        | SHA_1_WITH_RSA_ENCRYPTION
        | SHA_256_WITH_RSA_ENCRYPTION
        | ECDSA_WITH_SHA_256 => Some(Sha256::digest(certificate).to_vec()),
        SHA_384_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_384 => Some(Sha384::digest(certificate).to_vec()),
        SHA_512_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_512 => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}
