//! What can be wrong with a connection string and with the files that it names.
//!
//! No text here shows a password: an option is named, its value is not.

use std::path::PathBuf;

use secret::SecretError;

/// Reason why a connection string, or a file that it names, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The text is neither a URL nor key=value pairs.
    #[error("the connection string cannot be read: {0}")]
    Syntax(&'static str),
    /// A value has bytes that are no text.
    #[error("the connection string cannot be read: the value of {0} is not UTF-8")]
    NotText(String),
    /// A quoted value does not end.
    #[error("the connection string cannot be read: the value of {0} has no closing quote")]
    NoClosingQuote(String),
    /// libpq has no such option.
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
    /// An option has a value that it cannot have.
    #[error("the connection string's {option} must be {expected}")]
    Value {
        /// The option.
        option: &'static str,
        /// Values that it may have.
        expected: &'static str,
    },
    /// An option of libpq asks for what this client does not do.
    #[error("the connection string's {option} cannot be honoured: {instead}")]
    Refused {
        /// The option.
        option: &'static str,
        /// Why, and what to do instead.
        instead: &'static str,
    },
    /// Something indispensable is not there.
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
        /// Its name.
        service: String,
        /// The problem.
        problem: String,
    },
    /// The file of the connection string or of the password cannot be used.
    #[error("the file of the {what}: {source}; it is read for every connection")]
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
    /// This machine has no root certificates of its own.
    #[error(
        "this machine has no trusted root certificates: install ca-certificates, or name a file with sslrootcert"
    )]
    NoPlatformRoots,
    /// The TLS library does not take the configuration.
    #[error("TLS cannot be set up as configured")]
    Tls(#[from] rustls::Error),
}
