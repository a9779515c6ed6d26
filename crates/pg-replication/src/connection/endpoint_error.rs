//! Errors of connection strings and of the files that they name.
//!
//! No text shows a password: errors name the option, not its value.

use std::path::PathBuf;

use secret::SecretError;

/// Reason why a connection string, or a file that it names, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The text is neither a URL nor key=value pairs.
    #[error("the connection string cannot be read: {0}")]
    Syntax(&'static str),
    /// A value is not UTF-8 or holds a zero byte.
    #[error("the connection string cannot be read: the value of {0} is not UTF-8")]
    NotText(String),
    /// A quoted value has no closing quote.
    #[error("the connection string cannot be read: the value of {0} has no closing quote")]
    NoClosingQuote(String),
    /// An option that libpq does not have.
    #[error(
        "the connection string has an unknown option {option}{}",
        meant.as_ref().map(|meant| format!(": did you mean {meant}?")).unwrap_or_default()
    )]
    Unknown {
        /// The option.
        option: String,
        /// The nearest known one.
        meant: Option<String>,
    },
    /// An option has an invalid value.
    #[error("the connection string's {option} must be {expected}")]
    Value {
        /// The option.
        option: &'static str,
        /// The allowed values.
        expected: &'static str,
    },
    /// An option of libpq that this client does not support.
    #[error("the connection string's {option} is not supported: {instead}")]
    Refused {
        /// The option.
        option: &'static str,
        /// The reason, and the alternative.
        instead: &'static str,
    },
    /// A required option is missing.
    #[error("the connection string names no {what}: {cure}")]
    Missing {
        /// The missing option.
        what: &'static str,
        /// The text to write.
        cure: &'static str,
    },
    /// Two options contradict each other.
    #[error("the connection string contradicts itself: {0}")]
    Contradiction(&'static str),
    /// The service cannot be looked up.
    #[error("the connection string's service {service} cannot be used: {problem}")]
    Service {
        /// Name of the service.
        service: String,
        /// The problem.
        problem: String,
    },
    /// The file with the connection string or the password cannot be used.
    #[error("the file of the {what}: {source}; the file is read for every connection")]
    Secret {
        /// `connection string` or `password`.
        what: &'static str,
        /// The file, and what is wrong with it.
        source: SecretError,
    },
    /// A file of certificates or keys cannot be used.
    #[error("{option} = {}: {problem}", path.display())]
    File {
        /// `sslrootcert`, `sslcert` or `sslkey`.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// The problem and its cure.
        problem: &'static str,
        /// The underlying error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The platform has no trusted root certificates.
    #[error(
        "this machine has no trusted root certificates: install ca-certificates, or name a file with sslrootcert"
    )]
    NoPlatformRoots,
    /// The TLS library refuses the configuration.
    #[error("TLS cannot be set up as configured")]
    Tls(#[from] rustls::Error),
}
